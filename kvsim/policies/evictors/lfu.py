"""Least frequently used: the page with the fewest readings since it came leaves."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.evictors.pools import Pools
from kvsim.types import BoolArray, IntArray, PageIds


class Lfu:
    """Evict the page that was read in the fewest decisions since it came; ties to the smallest id.

    Counts do not age: a page that was read much keeps its place until others catch up. They start anew when a page
    comes back. The in-cache variant of LFU, as in Coffman and Denning, "Operating Systems Theory", 1973. `touch` is
    O(selected), `victims` O(pages of the grid).
    """

    def __init__(self, setting: Setting) -> None:
        self._pools = Pools(setting)
        self._readings: IntArray = np.zeros(setting.grid.num_pages, dtype=np.int64)

    def arrived(self, pages: PageIds) -> None:
        """Begin to count; the arrival itself is no reading."""
        self._readings[pages] = 0

    def touch(self, view: View) -> None:
        """Count the readings; those of misses begin with this one."""
        self._readings[view.misses] = 0
        self._readings[view.selected] += 1

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the pages with the fewest readings."""
        pages = self._pools.candidates(view.evictable, pool, spared)
        return pages[np.argsort(self._readings[pages], kind="stable")[:count]]

    def left(self, pages: PageIds) -> None:
        """Nothing to forget: counts start anew when a page comes."""
