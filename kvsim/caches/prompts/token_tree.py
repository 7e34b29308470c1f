"""A radix tree of prompts, token by token: which of those that are kept shares the longest beginning with a new one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kvsim.types import IntArray


@dataclass(slots=True, eq=False)
class _Node:
    """A run of tokens; `entries` are the prompts that end in it or below, the latest last."""

    run: IntArray
    parent: _Node | None
    children: dict[int, _Node] = field(default_factory=dict)
    entries: dict[int, None] = field(default_factory=dict)


class TokenTree:
    """Prompts by number, found by the longest beginning that they share with another.

    Runs of tokens lie on the edges, split where prompts part and joined again where what parted them is gone, so a
    look-up compares each token once, whole runs at a time.

    Examples
    --------
    >>> tree = TokenTree()
    >>> tree.insert(7, np.array([1, 2, 3]))
    >>> tree.insert(8, np.array([1, 2, 4, 5]))
    >>> tree.longest(np.array([1, 2, 4, 9])), tree.longest(np.array([1, 9])), tree.longest(np.array([5]))
    ((3, 8), (1, 8), (0, None))
    """

    def __init__(self) -> None:
        self._root = _Node(run=np.zeros(0, dtype=np.int64), parent=None)
        self._end_of: dict[int, _Node] = {}

    def __len__(self) -> int:
        """Return how many prompts are in the tree."""
        return len(self._end_of)

    def longest(self, tokens: IntArray) -> tuple[int, int | None]:
        """Return how many of `tokens` the closest prompt begins with, and which that is: of several, the latest."""
        node, shared = self._root, 0
        while shared < tokens.size and (child := node.children.get(int(tokens[shared]))) is not None:
            common = _num_common(child.run, tokens[shared:])
            node, shared = child, shared + common
            if common < child.run.size:
                break
        return shared, next(reversed(node.entries)) if shared else None

    def insert(self, entry: int, tokens: IntArray) -> None:
        """Put a prompt in under a number of its own."""
        assert entry not in self._end_of
        node, at = self._root, 0
        node.entries[entry] = None
        while at < tokens.size and (child := node.children.get(int(tokens[at]))) is not None:
            common = _num_common(child.run, tokens[at:])
            if common < child.run.size:
                child = _split(child, common)
            child.entries[entry] = None
            node, at = child, at + common
        if at < tokens.size:
            leaf = _Node(run=tokens[at:].copy(), parent=node, entries={entry: None})
            node.children[int(tokens[at])] = leaf
            node = leaf
        self._end_of[entry] = node

    def remove(self, entry: int) -> None:
        """Take a prompt out."""
        node: _Node | None = self._end_of.pop(entry)
        while node is not None:
            del node.entries[entry]
            above = node.parent
            if above is not None and not node.entries:
                del above.children[int(node.run[0])]
            elif above is not None and len(node.children) == 1:
                self._join(node)
            node = above

    def _join(self, node: _Node) -> None:
        """Make `node` and its only child one, where no prompt ends between them."""
        (child,) = node.children.values()
        if len(child.entries) < len(node.entries):
            return
        assert node.parent is not None
        child.run, child.parent = np.concatenate([node.run, child.run]), node.parent
        node.parent.children[int(node.run[0])] = child


def _split(node: _Node, length: int) -> _Node:
    """Return a new node with the first `length` tokens, above `node` with the others."""
    assert node.parent is not None
    upper = _Node(run=node.run[:length], parent=node.parent, entries=dict(node.entries))
    node.parent.children[int(node.run[0])] = upper
    node.run, node.parent = node.run[length:], upper
    upper.children[int(node.run[0])] = node
    return upper


def _num_common(left: IntArray, right: IntArray) -> int:
    """Return how many tokens the two begin with alike."""
    size = min(left.size, right.size)
    differs = left[:size] != right[:size]
    first = int(differs.argmax()) if size else 0
    return first if size and differs[first] else size
