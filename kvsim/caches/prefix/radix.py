"""A prefix cache as a radix tree: runs of blocks on the edges, split where prompts part, evicted leaf by leaf.

After SGLang's ``RadixCache`` (``python/sglang/srt/mem_cache/radix_cache.py``), with blocks in place of tokens: a match
that ends inside a run splits it, everything on the path is touched and locked, and eviction takes whole leaves, worst
first, so it may free more than was asked. What we changed: `evicts` = ``block`` shortens a leaf from its tail by only
as much as is needed (what a block index does); a split leaves both halves the time when they came in; and a request
larger than the budget keeps its first blocks.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from kvsim.errors import PolicyError
from kvsim.scenario.toml import nearest

RADIX_POLICIES = ("lru", "fifo", "lfu")
"""Policies that rank a node by what all its blocks share."""
EVICTS = ("node", "block")

_MAX_STALE = 4
"""Entries of the heap for each leaf before those passed over are thrown out."""


@dataclass(slots=True, eq=False)
class _Node:
    run: tuple[int, ...]
    parent: _Node | None
    created: int
    touched: int
    uses: int = 1
    locks: int = 0
    children: dict[int, _Node] = field(default_factory=dict)


class RadixCache:
    """A radix tree that holds at most `budget_blocks` blocks, None for no limit.

    Examples
    --------
    >>> tree = RadixCache(4, "lru")
    >>> tree.request((1, 2, 3)), tree.request((1, 2, 4)), tree.request((1, 2, 3))
    ((0, 0), (2, 0), (3, 0))
    >>> tree.runs()
    [(1, 2), (3,), (4,)]
    """

    def __init__(self, budget_blocks: int | None, policy: str, *, evicts: str = "node") -> None:
        if policy not in RADIX_POLICIES:
            raise PolicyError(
                f"no eviction policy of a radix tree is called {policy!r}{nearest(policy, RADIX_POLICIES)}"
            )
        if evicts not in EVICTS:
            raise PolicyError(f"a radix tree evicts by node or by block, not by {evicts!r}")
        self._budget = budget_blocks
        self._policy = policy
        self._evicts_nodes = evicts == "node"
        self._root = _Node(run=(), parent=None, created=0, touched=0, locks=1)
        self._leaves: set[_Node] = set()
        self._worst: list[tuple[tuple[int, ...], int, _Node]] = []
        """A heap of (rank, number, leaf). What a leaf was ranked before stays in it and is passed over."""
        self._offered = 0
        self._clock = 0
        self.size = 0
        """Blocks held."""

    def request(self, chain: tuple[int, ...]) -> tuple[int, int]:
        """Match a prompt, make room for what is missing, insert it; return its hits and the blocks evicted for it."""
        self._clock += 1
        node, hits = self._match(chain)
        self._lock(node, 1)
        evicted = 0
        missing = len(chain) - hits
        if self._budget is not None and self.size + missing > self._budget:
            evicted = self._evict(self.size + missing - self._budget)
            missing = min(missing, self._budget - self.size)
        if missing:
            self._insert(node, chain[hits : hits + missing])
        self._lock(node, -1)
        return hits, evicted

    def runs(self) -> list[tuple[int, ...]]:
        """Return the runs of all nodes, a parent's before its children's."""
        every_run, waiting = [], list(self._root.children.values())
        while waiting:
            node = waiting.pop(0)
            every_run.append(node.run)
            waiting.extend(node.children.values())
        return every_run

    def _match(self, chain: tuple[int, ...]) -> tuple[_Node, int]:
        """Return the deepest node on the path and its blocks, all touched; a run that parts inside is split."""
        node, hits = self._root, 0
        while hits < len(chain) and chain[hits] in node.children:
            child = node.children[chain[hits]]
            common = _common(child.run, chain, hits)
            if common < len(child.run):
                child = self._split(child, common)
            child.touched, child.uses = self._clock, child.uses + 1
            node, hits = child, hits + common
        if self._policy != "fifo":
            self._offer(node)
        return node, hits

    def _split(self, node: _Node, length: int) -> _Node:
        """Return a new node with the first `length` blocks, above `node` with the others."""
        assert node.parent is not None
        upper = _Node(
            run=node.run[:length],
            parent=node.parent,
            created=node.created,
            touched=node.touched,
            uses=node.uses,
            locks=node.locks,
        )
        node.parent.children[node.run[0]] = upper
        node.run, node.parent = node.run[length:], upper
        upper.children[node.run[0]] = node
        return upper

    def _insert(self, parent: _Node, run: tuple[int, ...]) -> None:
        node = _Node(run=run, parent=parent, created=self._clock, touched=self._clock)
        parent.children[run[0]] = node
        self.size += len(run)
        self._leaves.discard(parent)
        self._leaves.add(node)
        self._offer(node)

    def _offer(self, node: _Node) -> None:
        """Rank a leaf anew."""
        if self._budget is None or node not in self._leaves:
            return
        self._offered += 1
        heapq.heappush(self._worst, (self._rank(node), self._offered, node))
        if len(self._worst) > _MAX_STALE * (len(self._leaves) + 1):
            self._worst = [
                entry for entry in self._worst if entry[2] in self._leaves and entry[0] == self._rank(entry[2])
            ]
            heapq.heapify(self._worst)

    def _lock(self, node: _Node, change: int) -> None:
        current: _Node | None = node
        while current is not None:
            current.locks += change
            current = current.parent

    def _evict(self, num_blocks: int) -> int:
        """Give up `num_blocks` blocks, more where whole leaves go; return how many went."""
        evicted, locked = 0, []
        while evicted < num_blocks and self._worst:
            entry = heapq.heappop(self._worst)
            rank, _, leaf = entry
            if leaf not in self._leaves or rank != self._rank(leaf):
                continue
            if leaf.locks:
                locked.append(entry)
                continue
            num_taken = len(leaf.run) if self._evicts_nodes else min(len(leaf.run), num_blocks - evicted)
            evicted += num_taken
            self.size -= num_taken
            if num_taken < len(leaf.run):
                leaf.run = leaf.run[:-num_taken]
                locked.append(entry)
                continue
            parent = leaf.parent
            assert parent is not None
            self._leaves.remove(leaf)
            del parent.children[leaf.run[0]]
            if not parent.children and parent is not self._root:
                self._leaves.add(parent)
                self._offer(parent)
        for entry in locked:
            heapq.heappush(self._worst, entry)
        return evicted

    def _rank(self, node: _Node) -> tuple[int, ...]:
        if self._policy == "fifo":
            return (node.created,)
        return (node.touched,) if self._policy == "lru" else (node.uses, node.touched)


def _common(run: tuple[int, ...], chain: tuple[int, ...], start: int) -> int:
    """Return how many blocks of `run` go on as `chain` does from `start` on."""
    if run == chain[start : start + len(run)]:
        return len(run)
    low, high = 0, min(len(run), len(chain) - start)
    while low < high:  # comparing tuples is many times faster than comparing their elements one by one
        middle = (low + high + 1) // 2
        if run[low:middle] == chain[start + low : start + middle]:
            low = middle
        else:
            high = middle - 1
    return low
