"""Who is in a cache of embedding rows, call by call: the accounting that simulator and engine share."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from kvsim.caches.cache import Cache
from kvsim.types import BoolArray, IntArray


@dataclass(slots=True, kw_only=True)
class RowCounts:
    """What happened so far."""

    tokens: int = 0
    """Tokens looked up, duplicates included."""
    distinct_rows: int = 0
    """Rows looked up: each once a call."""
    hit_rows: int = 0
    missed_rows: int = 0
    """Rows fetched while the call waited."""
    prefetched_rows: int = 0
    """Rows fetched ahead."""
    used_prefetched_rows: int = 0
    """Of those, rows that were hit before they left."""
    evicted_rows: int = 0
    most_missed_rows: int = 0
    """Rows that one call fetched: what its staging buffer has to hold."""

    def plus(self, other: RowCounts) -> RowCounts:
        """Return the counts of both; the most of one call is the greater."""
        total = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        return RowCounts(**total | {"most_missed_rows": max(self.most_missed_rows, other.most_missed_rows)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCall:
    """What one call of the embedding reads and fetches; arrays of rows are in order of first appearance."""

    rows: IntArray
    """The distinct rows, ``[n]``."""
    place_of: IntArray
    """Where each token's row stands among `rows`, ``[tokens]``."""
    hits: BoolArray
    """``[n]``: the row was in; all others travel, in one transfer."""
    slots: IntArray
    """``[n]``: the slot that a hit row is read from, before any newcomer is written."""
    homes: IntArray
    """``[n]``: the slot that holds each row after the call; -1 of a row that is not kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFetch:
    """Rows to be fetched ahead, and their slots."""

    rows: IntArray
    slots: IntArray


class RowCacheState:
    """Which row is in which slot.

    A call looks its distinct rows up one after another, in order of first appearance, so that hits are those of
    `kvsim.caches.replay` over the same rows; a row met twice in one call is looked up once. More distinct rows than
    slots pass through: those that own no slot in the end are used and not kept.

    Parameters
    ----------
    num_rows
        Rows of the table.
    future
        All rows that will be looked up or fetched ahead, as `future_of` puts them together; for oracles alone.

    Examples
    --------
    >>> state = RowCacheState("lru", 2, num_rows=10)
    >>> call = state.look_up([7, 3, 7])
    >>> call.rows.tolist(), call.place_of.tolist(), call.hits.tolist(), call.homes.tolist()
    ([7, 3], [0, 1, 0], [False, False], [0, 1])
    >>> state.look_up([3, 9]).hits.tolist(), state.counts.hit_rows
    ([True, False], 1)
    """

    def __init__(
        self, policy: str, capacity_rows: int, *, num_rows: int, seed: int = 0, future: ArrayLike | None = None
    ) -> None:
        self.num_rows = num_rows
        self.capacity_rows = min(capacity_rows, num_rows)
        self.counts = RowCounts()
        self._cache = Cache(policy, self.capacity_rows, num_keys=num_rows, seed=seed, future=future)
        self._is_ahead: BoolArray = np.zeros(num_rows, dtype=np.bool_)

    def look_up(self, token_ids: ArrayLike) -> RowCall:
        """Look the rows of one call up, ``[tokens]``."""
        rows, place_of = distinct(token_ids)
        done = self._cache.access(rows)
        missed = int(rows.size - done.hits.sum())
        counts = self.counts
        counts.tokens += place_of.size
        counts.distinct_rows += rows.size
        counts.hit_rows += rows.size - missed
        counts.missed_rows += missed
        counts.evicted_rows += int(done.evicts.sum())
        counts.most_missed_rows = max(counts.most_missed_rows, missed)
        counts.used_prefetched_rows += int((self._is_ahead[rows] & done.hits).sum())
        self._is_ahead[rows] = False
        self._is_ahead[done.victims[done.evicts]] = False
        homes = done.slots if not missed else self._cache.slots_of(rows)
        return RowCall(rows=rows, place_of=place_of, hits=done.hits, slots=done.slots, homes=homes)

    def fetch_ahead(self, token_ids: ArrayLike) -> RowFetch:
        """Let the rows of tokens to come in, and return those that must travel; one without a slot stays where it is.

        To the policy it is a look-up like any other: rows that are in already are kept longer.
        """
        rows, _ = distinct(token_ids)
        done = self._cache.access(rows)
        slots = self._cache.slots_of(rows)
        is_fetched = ~done.hits & (slots >= 0)
        self.counts.prefetched_rows += int(is_fetched.sum())
        self.counts.evicted_rows += int(done.evicts.sum())
        self._is_ahead[done.victims[done.evicts]] = False
        self._is_ahead[rows[is_fetched]] = True
        return RowFetch(rows=rows[is_fetched], slots=slots[is_fetched])

    def slots_of(self, rows: IntArray) -> IntArray:
        """Return the slot that holds each row now, -1 of those that are not in."""
        return self._cache.slots_of(rows)


def distinct(token_ids: ArrayLike) -> tuple[IntArray, IntArray]:
    """Return the different tokens in order of first appearance, and where each token stands among them.

    Examples
    --------
    >>> distinct([5, 2, 5])
    (array([5, 2]), array([0, 1, 0]))
    """
    flat = np.asarray(token_ids, dtype=np.int64).reshape(-1)
    if flat.size == 1:
        return flat, np.zeros(1, dtype=np.int64)
    _, firsts, inverse = np.unique(flat, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    return flat[firsts[order]], rank[inverse]


RowBooks = RowCacheState
"""The name before 0.2; it goes with the next release."""
