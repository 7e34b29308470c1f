"""SIEVE: a queue with one hand that moves from old to young, sparing once what was read since it last came by."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.evictors.pools import Pools, may_leave
from kvsim.types import BoolArray, PageIds


class Sieve:
    """Evict the page at the hand, unless it was read since the hand last passed.

    After Zhang and others, "SIEVE is simpler than LRU", NSDI 2024. A hit marks a page and moves nothing. The hand goes
    from the oldest to the youngest: it clears the mark of a marked page and takes an unmarked one. Differs: pages that
    may not leave are passed over with their marks kept, and the pages of one decision are queued before any of its
    victims is sought. `touch` is O(selected), `victims` O(passed) compiled; the list here makes it O(pages) a victim.
    """

    def __init__(self, setting: Setting) -> None:
        self._pools = Pools(setting)
        self._oldest_first: list[list[int]] = [[] for _ in range(self._pools.count)]
        self._hands = [0] * self._pools.count
        """Where each pool's hand stands: a place in its queue."""
        self._is_queued: set[int] = set()
        self._is_marked: set[int] = set()
        self._is_unread: set[int] = set()

    def arrived(self, pages: PageIds) -> None:
        """Queue the arrivals in the given order."""
        for page in pages.tolist():
            self._queue(page, self._pools.of_page(page))
            self._is_unread.add(page)

    def touch(self, view: View) -> None:
        """Queue the misses, and mark what is read again."""
        pool = self._pools.of_layer(view.layer)
        for page in view.selected.tolist():
            if page not in self._is_queued:
                self._queue(page, pool)
            elif page in self._is_unread:
                self._is_unread.discard(page)
            else:
                self._is_marked.add(page)

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return what the hand takes."""
        victims: list[int] = []
        while len(victims) < count:
            page = self._next_victim(view, pool, spared)
            if page is None:
                break
            victims.append(page)
        return np.array(victims, dtype=np.int64)

    def left(self, pages: PageIds) -> None:
        """Take the pages out of the queue."""
        for page in pages.tolist():
            pool = self._pools.of_page(page)
            if page in self._is_queued:
                self._remove(self._oldest_first[pool].index(page), pool)

    def _next_victim(self, view: View, pool: int, spared: BoolArray | None) -> int | None:
        queue = self._oldest_first[pool]
        # In two rounds the hand meets every page without its mark.
        for _ in range(2 * len(queue)):
            place = self._hands[pool]
            page = queue[place]
            if may_leave(page, view.evictable, spared):
                if page not in self._is_marked:
                    self._remove(place, pool)
                    return page
                self._is_marked.discard(page)
            self._hands[pool] = (place + 1) % len(queue)
        return None

    def _queue(self, page: int, pool: int) -> None:
        self._oldest_first[pool].append(page)
        self._is_queued.add(page)

    def _remove(self, place: int, pool: int) -> None:
        queue = self._oldest_first[pool]
        page = queue.pop(place)
        for marked in (self._is_queued, self._is_marked, self._is_unread):
            marked.discard(page)
        if place < self._hands[pool]:
            self._hands[pool] -= 1
        if self._hands[pool] >= len(queue):
            self._hands[pool] = 0
