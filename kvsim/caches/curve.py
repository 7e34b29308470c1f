"""The exact miss-ratio curve of LRU: every budget from one pass over a trace."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from kvsim.caches.cache import as_keys
from kvsim.caches.keys import KeyTable
from kvsim.errors import ScenarioError
from kvsim.kernels.replay.stack_distance import count_distances
from kvsim.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class MissCurve:
    """Misses of LRU at every budget from 0 keys to all of them."""

    num_accesses: int
    misses: IntArray
    """``[num_keys + 1]``, misses with room for that many keys."""

    @property
    def num_keys(self) -> int:
        """Distinct keys: more room than that changes nothing."""
        return self.misses.size - 1

    @property
    def miss_frac(self) -> FloatArray:
        """Share of accesses that miss, ``[num_keys + 1]``."""
        shares: FloatArray = self.misses / self.num_accesses
        return shares

    @property
    def knee(self) -> int:
        """The budget farthest below the straight line from no room to room for all.

        After Satopaa et al., "Finding a kneedle in a haystack" (ICDCSW 2011), without smoothing: both axes are scaled
        to their range. Beyond it, room buys less than it does on average.
        """
        shares = self.miss_frac
        span = shares[0] - shares[-1]
        if span == 0:
            return 0
        line = 1 - np.arange(shares.size) / self.num_keys
        return int(np.argmax(line - (shares - shares[-1]) / span))

    def budget_for(self, miss_frac: float) -> int | None:
        """Return the least budget that misses at most `miss_frac` of the accesses, None where none does."""
        enough = np.flatnonzero(self.miss_frac <= miss_frac)
        return int(enough[0]) if enough.size else None


def miss_curve(keys: ArrayLike) -> MissCurve:
    """Return the curve of a trace of keys.

    Raises
    ------
    ScenarioError
        If there is no access.

    Examples
    --------
    >>> miss_curve([1, 2, 1, 2]).misses
    array([4, 4, 2])
    """
    flat = as_keys(keys)
    if not flat.size:
        raise ScenarioError("a trace without accesses has no miss-ratio curve")
    table = KeyTable()
    ids = table.ids_of(flat)
    entries = 1 << max(10, (2 * table.num_ids - 1).bit_length())
    counts = count_distances(ids, table.num_ids, entries)
    hits = np.concatenate(([0], np.cumsum(counts[1:])))
    return MissCurve(num_accesses=flat.size, misses=flat.size - hits)
