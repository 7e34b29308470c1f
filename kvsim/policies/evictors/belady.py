"""Belady's MIN: the page whose next reading lies furthest ahead leaves. A bound: it is handed the future."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.evictors.pools import Pools
from kvsim.policies.future import Future, NextUses
from kvsim.types import BoolArray, PageIds


class Belady:
    """Evict the page that is read again last, or never; ties to the smallest id.

    After Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 1966, whose
    MIN this is: without prefetching no order of eviction misses less. `touch` is O(selected), `victims` O(pages of the
    grid).
    """

    is_oracle: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self._grid = setting.grid
        self._pools = Pools(setting)
        self._uses: NextUses

    def foresee(self, future: Future) -> None:
        """Read off the next use of every page."""
        self._uses = NextUses(future, self._grid.num_pages)

    def arrived(self, pages: PageIds) -> None:
        """Nothing to learn."""

    def touch(self, view: View) -> None:
        """Pass this decision: its pages are next read after it."""
        self._uses.advance(view.step, view.layer)

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the pages that are read again last."""
        pages = self._pools.candidates(view.evictable, pool, spared)
        return pages[np.argsort(-self._uses.at[pages], kind="stable")[:count]]

    def left(self, pages: PageIds) -> None:
        """Nothing to forget."""
