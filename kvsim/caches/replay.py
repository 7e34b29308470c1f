"""A whole trace through one cache, counted only: the fastest way to a hit ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kvsim.caches.cache import as_keys, check_cache
from kvsim.caches.keys import KeyTable
from kvsim.kernels.replay.contract import NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """Hits and misses of one replay."""

    policy: str
    capacity: int
    hits: int
    misses: int

    @property
    def hit_frac(self) -> float:
        """Share of accesses that hit; nan of an empty trace."""
        accesses = self.hits + self.misses
        return self.hits / accesses if accesses else float("nan")


def replay(keys: ArrayLike, capacity: int, policy: str, *, seed: int = 0) -> ReplayResult:
    """Return what a cache of `capacity` keys under `policy` makes of `keys`, from empty; an oracle foresees them all.

    Raises
    ------
    CapacityError, ScenarioError
        As `kvsim.caches.Cache` does.

    Examples
    --------
    >>> replay([1, 2, 1, 3, 2], 2, "belady").hits
    2
    """
    table = KeyTable()
    ids = table.ids_of(as_keys(keys))
    return replay_ids(ids, table.num_ids, capacity, policy, seed=seed)


def replay_ids(ids: NDArray[np.uint32], num_ids: int, capacity: int, policy: str, *, seed: int = 0) -> ReplayResult:
    """Replay dense ids below `num_ids`, as `KeyTable` makes them: for many replays of one trace."""
    entry = check_cache(policy, capacity)
    known: dict[str, Any] = {"seed": seed} if entry.takes_seed else {}
    if entry.kind == "oracle":
        known = {"future": ids, "num_ids": max(1, num_ids)}
    state = entry.make_state(capacity, **known)
    hits = int(entry.access(np.full(num_ids, NONE), state, ids, None, None))
    return ReplayResult(policy=policy, capacity=capacity, hits=hits, misses=ids.size - hits)
