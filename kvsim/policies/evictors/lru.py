"""Least recently used: the page that attention read longest ago leaves."""

from __future__ import annotations

from collections import OrderedDict

from kvsim.policies.base import Setting, View
from kvsim.policies.evictors.pools import Pools, take_first
from kvsim.types import BoolArray, PageIds


class Lru:
    """Evict the page that attention read longest ago.

    Pages read in one decision age in order of their ids; an arrival counts as a reading. After Denning, "The working
    set model for program behavior", CACM 1968, with pages of layers and sequences in one pool (or a pool a layer).
    `touch` is O(selected), `victims` O(count + skipped).
    """

    def __init__(self, setting: Setting) -> None:
        self._pools = Pools(setting)
        self._oldest_first: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(self._pools.count)]

    def arrived(self, pages: PageIds) -> None:
        """Take arrivals as read now, in the given order."""
        for page in pages.tolist():
            self._oldest_first[self._pools.of_page(page)][page] = None

    def touch(self, view: View) -> None:
        """Move what is read to the young end."""
        order = self._oldest_first[self._pools.of_layer(view.layer)]
        for page in view.selected.tolist():
            order[page] = None
            order.move_to_end(page)

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the oldest pages that may leave."""
        return take_first(self._oldest_first[pool], count, view.evictable, spared)

    def left(self, pages: PageIds) -> None:
        """Forget the pages."""
        for page in pages.tolist():
            self._oldest_first[self._pools.of_page(page)].pop(page, None)
