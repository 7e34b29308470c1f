"""S3-FIFO: a small queue on trial, a main queue with second chances, and the ids of what left the small one."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.evictors.pools import Pools, may_leave
from kvsim.types import BoolArray, PageIds

MAX_COUNT = 3
"""A page's readings are counted up to here."""
MOVES_AT = 2
"""Readings after the first that bring a page from the small queue to the main one."""


class S3Fifo:
    """Evict from the small queue what was read at most twice, from the main queue what was not read since its turn.

    After Yang and others, "FIFO queues are all you need for cache eviction", SOSP 2023. A miss joins the small queue,
    or the main one if its id is among the ghosts of the small one. Victims come from the small queue while it has at
    least its share of the slots, else from the main one, where a page read since goes round again, one reading less.
    Differs from the original, which serves one request at a time: all pages of a decision are queued, ascending, before
    its victims leave; pages that may not leave are passed over and keep their places and counts; where no page of a
    queue may leave, the other one gives; the first reading of a page that came without one is not counted, as that
    of a miss is not. `touch` is O(selected), `victims` O(count + passed) compiled, O(pages) a victim here.

    Parameters
    ----------
    small_frac
        Share of the slots that the small queue should have.
    """

    def __init__(self, setting: Setting, *, small_frac: float = 0.1) -> None:
        if not 0 < small_frac < 1:
            raise ValueError(f"small_frac must be between 0 and 1, got {small_frac}")
        self._pools = Pools(setting)
        self._queues = [_Queues(self._pools.capacity_pages, small_frac) for _ in range(self._pools.count)]

    def arrived(self, pages: PageIds) -> None:
        """Queue the arrivals in the small queue, in the given order."""
        for page in pages.tolist():
            self._queues[self._pools.of_page(page)].arrived(page)

    def touch(self, view: View) -> None:
        """Count the readings, and queue the misses."""
        queues = self._queues[self._pools.of_layer(view.layer)]
        for page in view.selected.tolist():
            queues.read(page)

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return what the queues give, one after the other."""
        queues = self._queues[pool]
        victims: list[int] = []
        while len(victims) < count:
            page = queues.give(view.evictable, spared)
            if page is None:
                break
            victims.append(page)
        return np.array(victims, dtype=np.int64)

    def left(self, pages: PageIds) -> None:
        """Take the pages out of the queues, with no ghost: this policy did not let them go."""
        for page in pages.tolist():
            queues = self._queues[self._pools.of_page(page)]
            queues.small.pop(page, None)
            queues.main.pop(page, None)


class _Queues:
    """The queues of one pool, oldest first, with the readings of each page after its first; -1 before the first."""

    def __init__(self, capacity_pages: int, small_frac: float) -> None:
        self._small_pages = max(1, int(small_frac * capacity_pages))
        self._max_ghosts = capacity_pages - self._small_pages
        self.small: dict[int, int] = {}
        self.main: dict[int, int] = {}
        self._ghosts: dict[int, None] = {}

    def arrived(self, page: int) -> None:
        self._ghosts.pop(page, None)
        self.small[page] = -1

    def read(self, page: int) -> None:
        for queue in (self.small, self.main):
            if page in queue:
                queue[page] = min(queue[page] + 1, MAX_COUNT)
                return
        if page in self._ghosts:
            del self._ghosts[page]
            self.main[page] = 0
        else:
            self.small[page] = 0

    def give(self, evictable: BoolArray, spared: BoolArray | None) -> int | None:
        """Let one page go and return it; None where none may leave."""
        if len(self.small) >= self._small_pages:
            turns = [self._give_small, self._give_main]
        else:
            turns = [self._give_main, self._give_small, self._give_main]  # the last, of what the small one moved
        for turn in turns:
            page = turn(evictable, spared)
            if page is not None:
                return page
        return None

    def _give_small(self, evictable: BoolArray, spared: BoolArray | None) -> int | None:
        for page in list(self.small):
            if not may_leave(page, evictable, spared):
                continue
            count = self.small.pop(page)
            if count < MOVES_AT:
                self._remember(page)
                return page
            self.main[page] = 0
        return None

    def _give_main(self, evictable: BoolArray, spared: BoolArray | None) -> int | None:
        for _ in range(MAX_COUNT + 1):
            for page in list(self.main):
                if not may_leave(page, evictable, spared):
                    continue
                count = self.main.pop(page)
                if count <= 0:
                    return page
                self.main[page] = count - 1
        return None

    def _remember(self, page: int) -> None:
        self._ghosts[page] = None
        while len(self._ghosts) > self._max_ghosts:
            del self._ghosts[next(iter(self._ghosts))]
