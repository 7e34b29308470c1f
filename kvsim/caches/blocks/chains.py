"""Keys for runs of tokens: equal prefixes have equal keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvsim.types import IntArray


@dataclass(frozen=True, slots=True)
class ChainTable:
    """The keys of the full blocks of many requests, in two arrays.

    Examples
    --------
    >>> ChainTable.of([[0, 1], [], [0, 2]]).lists()
    [[0, 1], [], [0, 2]]
    """

    keys: IntArray
    """The keys of all requests, one request after another."""
    starts: IntArray
    """Where the keys of each request begin, and the last one's end, ``[num_requests + 1]``."""

    @classmethod
    def of(cls, chains: Sequence[Sequence[int]]) -> ChainTable:
        """Return the table of these chains."""
        starts = np.zeros(len(chains) + 1, dtype=np.int64)
        np.cumsum([len(chain) for chain in chains], out=starts[1:])
        keys = np.fromiter((key for chain in chains for key in chain), dtype=np.int64, count=starts[-1])
        return cls(keys, starts)

    def lists(self) -> list[list[int]]:
        """Return each request's keys as a list."""
        keys: list[int] = self.keys.tolist()
        return [keys[start:end] for start, end in zip(self.starts[:-1], self.starts[1:], strict=True)]


class ChainKeys:
    """Numbers the full blocks of requests: two blocks have one key if and only if all tokens up to their ends agree.

    vLLM hashes each block with its parent's hash; only equality matters to a scheduler, so keys here are dense integers
    in the order of first appearance, and no hash can collide.

    Examples
    --------
    >>> keys = ChainKeys(block_tokens=2)
    >>> keys.add(np.array([1, 2, 3, 4, 5])), keys.add(np.array([1, 2, 9, 9])), keys.add(np.array([3, 4]))
    ([0, 1], [0, 2], [3])
    >>> keys.first_seen[1], keys.first_seen[2]
    ((0, 1), (1, 1))
    """

    __slots__ = ("_keys", "_num_added", "block_tokens", "first_seen")

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.first_seen: list[tuple[int, int]] = []
        """For each key, the first request that had it (counted from 0 in the order of `add`) and its block's place."""
        self._keys: dict[tuple[int, bytes], int] = {}
        self._num_added = 0

    def add(self, tokens: NDArray[np.int64]) -> list[int]:
        """Return the keys of the full blocks of one more request."""
        keys: list[int] = []
        parent = -1
        tokens = np.ascontiguousarray(tokens, dtype=np.int64)
        for place in range(len(tokens) // self.block_tokens):
            block = tokens[place * self.block_tokens : (place + 1) * self.block_tokens]
            parent = self._keys.setdefault((parent, block.tobytes()), len(self._keys))
            if parent == len(self.first_seen):
                self.first_seen.append((self._num_added, place))
            keys.append(parent)
        self._num_added += 1
        return keys
