"""Prefetching with the future in hand: the bound of every predictor."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from kvsim.policies.base import NO_PAGES, Setting, View
from kvsim.policies.future import NEVER, Future, NextUses
from kvsim.policies.prefetchers.base import DecisionPrefetcher
from kvsim.types import BoolArray, PageIds


class OraclePrefetch(DecisionPrefetcher):
    """Fetch the pages that are read next, nearest use first, each only against one that is read later.

    The *aggressive* rule of Cao, Felten, Karlin and Li, "A study of integrated prefetching and caching strategies"
    (SIGMETRICS 1995): the next page in the stream that is not there, against the one whose next use lies furthest,
    unless that comes sooner. Under finite bandwidth it is near the best, not proved to be: nothing is fetched in vain,
    and the link is asked for pages in the order of their use. Pair it with ``belady``, which evicts by the same rule.
    """

    is_oracle: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self._grid = setting.grid
        self._is_shared = setting.partition == "shared"
        self._uses: NextUses | None = None
        self._spared: BoolArray = np.zeros(setting.grid.num_pages, dtype=np.bool_)

    def foresee(self, future: Future) -> None:
        """Take in what the run will read."""
        self._uses = NextUses(future, self._grid.num_pages)

    def wanted(self, view: View) -> PageIds:
        """Return the missing pages of the nearest use, as many as slots of later use can take."""
        assert self._uses is not None  # an oracle is handed the future before it starts
        self._uses.advance(view.step, view.layer)
        next_use = self._uses.at
        missing = np.flatnonzero(view.prefetchable & (next_use < NEVER))
        candidates = missing[np.argsort(next_use[missing], kind="stable")][: view.prefetch_quota]
        if self._is_shared and candidates.size:
            candidates = candidates[: self._num_worth(view, next_use[candidates])]
        latest = int(next_use[candidates[-1]]) if candidates.size else -1
        np.less_equal(next_use, latest, out=self._spared)
        return candidates if candidates.size else NO_PAGES

    def spared(self, view: View) -> BoolArray | None:
        """Spare pages that are read before the last of the wanted."""
        del view
        return self._spared

    def _num_worth(self, view: View, uses: PageIds) -> int:
        """Return how many of the wanted, by their next `uses`, come before what leaves for them is read."""
        assert self._uses is not None
        free = max(view.free_slots, 0)
        due = max(-view.free_slots, 0)
        leave = np.sort(self._uses.at[view.evictable])[::-1][due : due + max(uses.size - free, 0)]
        against = uses[free : free + leave.size]
        is_worth = against < leave
        return min(free, uses.size) + (int(np.argmin(is_worth)) if not is_worth.all() else int(is_worth.size))
