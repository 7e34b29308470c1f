"""First in, first out: the page that came longest ago leaves, read since or not."""

from __future__ import annotations

from kvsim.policies.base import Setting, View
from kvsim.policies.evictors.pools import Pools, take_first
from kvsim.types import BoolArray, PageIds


class Fifo:
    """Evict the page that came to the device longest ago.

    After Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 1966. Pages
    that come in one decision are queued in order of their ids. `touch` is O(misses), `victims` O(count + skipped).
    """

    def __init__(self, setting: Setting) -> None:
        self._pools = Pools(setting)
        self._oldest_first: list[dict[int, None]] = [{} for _ in range(self._pools.count)]

    def arrived(self, pages: PageIds) -> None:
        """Queue the arrivals in the given order."""
        for page in pages.tolist():
            self._oldest_first[self._pools.of_page(page)][page] = None

    def touch(self, view: View) -> None:
        """Queue the misses; a hit changes nothing."""
        queue = self._oldest_first[self._pools.of_layer(view.layer)]
        for page in view.misses.tolist():
            queue[page] = None

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the pages that came first; those that may not leave keep their places."""
        return take_first(self._oldest_first[pool], count, view.evictable, spared)

    def left(self, pages: PageIds) -> None:
        """Take the pages out of the queue."""
        for page in pages.tolist():
            self._oldest_first[self._pools.of_page(page)].pop(page, None)
