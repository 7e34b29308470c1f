"""Importance rank: the page that scored worst in its layer when the layer last chose leaves."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.evictors.pools import Pools
from kvsim.types import BoolArray, IntArray, PageIds


class ImportanceRank:
    """Evict the page of the lowest rank among the scores of its layer, as they were at the layer's last decision.

    The best-scored page of a layer has rank 0; of pages that score alike the smaller id ranks lower. A page not scored
    yet has rank 0. After ArkVale (NeurIPS 2024), whose recall puts a page in the place of the one that the same scores
    rank lowest; differs: ranks make layers of unlike scores comparable in one pool, where ArkVale has a pool a layer.
    `touch` is O(pages of the layer, sorted), `victims` O(pages of the grid).
    """

    def __init__(self, setting: Setting) -> None:
        self._grid = setting.grid
        self._pools = Pools(setting)
        self._ranks: IntArray = np.zeros(setting.grid.num_pages, dtype=np.int64)

    def arrived(self, pages: PageIds) -> None:
        """Nothing to learn: a page is ranked wherever it is."""

    def touch(self, view: View) -> None:
        """Rank the pages of the layer anew."""
        for sequence, scores in enumerate(view.scores):
            first = self._grid.first_page(sequence=sequence, layer=view.layer)
            worst_first = np.argsort(scores, kind="stable")
            self._ranks[first + worst_first] = np.arange(scores.size)[::-1]

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the pages of the lowest ranks."""
        pages = self._pools.candidates(view.evictable, pool, spared)
        return pages[np.argsort(-self._ranks[pages], kind="stable")[:count]]

    def left(self, pages: PageIds) -> None:
        """Nothing to forget."""
