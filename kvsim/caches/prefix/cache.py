"""The plain prefix cache: an index from block names to slots, reference counts, and a policy for what is free.

After vLLM's ``BlockPool`` and ``FreeKVCacheBlockQueue`` (``vllm/v1/core/block_pool.py``, ``kv_cache_utils.py``): hits
are held before anything is allocated, so that no request evicts what it is about to read; a request's blocks are
released last block first, so that tails leave before heads. What we changed: blocks of equal name are kept once; a
request that the budget cannot hold keeps its first blocks instead of waiting; and any policy may choose among the free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from kvsim.caches.prefix.evictions import Eviction
from kvsim.errors import CapacityError

ADMISSIONS = ("all", "second-touch")
"""Which blocks are let in: all, or those that an earlier request had too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What the cache decided for one request."""

    num_hits: int
    """Blocks found, from the first on, and not computed again: a request's hits stop at its first miss."""
    num_held: int
    """Blocks that the cache holds now, the hits among them; the request computes all but the hits."""
    slots: tuple[int, ...]
    """Slot of each kept block."""
    evicted: tuple[int, ...]
    """Blocks that left, in order."""


@dataclass(slots=True)
class _Block:
    slot: int
    parent: int | None
    holders: int = 0
    children: int = 0


class PrefixCache:
    """A prefix cache of `budget_blocks` blocks.

    Parameters
    ----------
    budget_blocks
        Slots; None for no limit.
    in_flight
        Requests that hold their blocks at a time: the latest so many. When a request finds no free block, the oldest
        one is let finish.

    Examples
    --------
    >>> from kvsim.caches.prefix.evictions import Lru
    >>> cache = PrefixCache(4, Lru(4))
    >>> cache.request([1, 2, 3]).num_hits, cache.request([1, 2, 4]).num_hits, cache.request([1, 2, 3]).num_hits
    (0, 2, 3)
    >>> cache.request([5]).evicted
    (4,)
    """

    def __init__(
        self, budget_blocks: int | None, eviction: Eviction, *, admission: str = "all", in_flight: int = 1
    ) -> None:
        if in_flight < 1 or (budget_blocks is not None and budget_blocks < 1):
            raise CapacityError("a prefix cache needs a block or more, and a request or more in flight")
        self._budget = budget_blocks
        self._eviction = eviction
        self._seen: set[int] | None = set() if admission == "second-touch" else None
        self._in_flight = in_flight
        self._blocks: dict[int, _Block] = {}
        self._free_slots: list[int] = []
        self._held: deque[tuple[int, ...]] = deque()

    def __len__(self) -> int:
        """Return the blocks that are cached."""
        return len(self._blocks)

    def __contains__(self, block: int) -> bool:
        """Return whether a block is cached."""
        return block in self._blocks

    def holders(self, block: int) -> int:
        """Return how many requests hold a cached block."""
        return self._blocks[block].holders

    def request(
        self, chain: Sequence[int], next_uses: Sequence[int] | None = None, *, most_hits: int | None = None
    ) -> Admitted:
        """Look up the blocks of one prompt, hold the hits, bring in the others, and let older requests finish.

        Parameters
        ----------
        chain
            Names of the prompt's blocks, each after its parent.
        next_uses
            When each is used next: for the policy that may know.
        most_hits
            Hits that count: what is found beyond is held, and computed again. A prompt's last token must be computed
            for its logits, so vLLM allows ``(tokens - 1) // block_tokens``.
        """
        coming = next_uses if next_uses is not None else [0] * len(chain)
        while len(self._held) >= self._in_flight:
            self.finish_oldest()
        num_matched = 0
        while num_matched < len(chain) and chain[num_matched] in self._blocks:
            num_matched += 1
        for block, next_use in zip(chain[:num_matched], coming, strict=False):
            self._blocks[block].holders += 1
            self._eviction.hit(block, next_use)
        num_held, evicted = num_matched, []
        for place in range(num_matched, len(chain)):
            block = chain[place]
            if self._seen is not None and block not in self._seen:
                break
            room, victim = self._make_room(coming[place])
            if victim is not None:
                evicted.append(victim)
            if not room:
                break
            self._insert(block, chain[place - 1] if place else None)
            self._eviction.enter(block, coming[place])
            num_held += 1
        if self._seen is not None:
            self._seen.update(chain)
        held = tuple(chain[:num_held])
        self._held.append(held)
        slots = tuple(self._blocks[block].slot for block in held)
        num_hits = num_matched if most_hits is None else min(num_matched, most_hits)
        return Admitted(num_hits=num_hits, num_held=num_held, slots=slots, evicted=tuple(evicted))

    def finish_oldest(self) -> None:
        """Let the oldest request in flight go: what nobody else holds is free, its last block first."""
        for block in reversed(self._held.popleft()):
            entry = self._blocks[block]
            entry.holders -= 1
            if entry.holders == 0:
                self._eviction.released(block)

    def finish(self) -> None:
        """Let every request in flight go."""
        while self._held:
            self.finish_oldest()

    def _is_free(self, block: int) -> bool:
        entry = self._blocks[block]
        return entry.holders == 0 and entry.children == 0

    def _make_room(self, next_use: int) -> tuple[bool, int | None]:
        """Return whether there is a slot now for a block next used at `next_use`, and which block left for it."""
        if self._budget is None or len(self._blocks) < self._budget:
            return True, None
        victim = self._eviction.victim(self._is_free)
        while victim is None and self._held:
            self.finish_oldest()
            victim = self._eviction.victim(self._is_free)
        if victim is None or self._eviction.outlives(victim, next_use):
            return False, None
        self._evict(victim)
        return True, victim

    def _evict(self, block: int) -> None:
        assert self._is_free(block), f"block {block} is in use and was to leave"
        entry = self._blocks.pop(block)
        self._free_slots.append(entry.slot)
        if entry.parent is not None:
            self._blocks[entry.parent].children -= 1
        self._eviction.evicted(block)

    def _insert(self, block: int, parent: int | None) -> None:
        slot = self._free_slots.pop() if self._free_slots else len(self._blocks)
        self._blocks[block] = _Block(slot=slot, parent=parent, holders=1)
        if parent is not None:
            self._blocks[parent].children += 1
