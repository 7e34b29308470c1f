"""ARC: two lists, read once and read again, whose shares of the device follow which of the two was cut too short."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.evictors.pools import Pools, may_leave
from kvsim.types import BoolArray, PageIds


class Arc:
    """Evict the oldest of the pages read once, or of those read again, whichever list is longer than its target.

    After Megiddo and Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003. Ghost lists B1 and B2
    remember the ids of pages that left; a miss found in one moves the target of its list. Differs from the original,
    which serves one request at a time:

    - all pages of a decision take their places, ascending, before its victims leave: lists are longer by them then;
    - the original's choice for a miss found in B2 while T1 is exactly at its target has no meaning for a batch, so T1
      gives only while it is longer than the target;
    - where the oldest pages may not leave, the next oldest does; where none of a list may, the other list gives;
    - ghosts are cut to the original's bounds after the victims left: T1 + B1 at most the slots, all at most twice;
    - a page that came without being read is in T1, and its first reading leaves it there.

    `touch` is O(selected), `victims` O(count + skipped).
    """

    def __init__(self, setting: Setting) -> None:
        self._pools = Pools(setting)
        self._lists = [_Lists(self._pools.capacity_pages) for _ in range(self._pools.count)]

    def arrived(self, pages: PageIds) -> None:
        """Put the arrivals at the young end of T1."""
        for page in pages.tolist():
            self._lists[self._pools.of_page(page)].arrived(page)

    def touch(self, view: View) -> None:
        """Move what is read to where a reading brings it."""
        lists = self._lists[self._pools.of_layer(view.layer)]
        for page in view.selected.tolist():
            lists.read(page)
        lists.cut_ghosts()

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the oldest pages of the list that is too long, one after the other."""
        lists = self._lists[pool]
        victims: list[int] = []
        while len(victims) < count:
            page = lists.give(view.evictable, spared)
            if page is None:
                break
            victims.append(page)
        lists.cut_ghosts()
        return np.array(victims, dtype=np.int64)

    def left(self, pages: PageIds) -> None:
        """Forget the pages, with no ghost: this policy did not let them go."""
        for page in pages.tolist():
            lists = self._lists[self._pools.of_page(page)]
            lists.once.pop(page, None)
            lists.again.pop(page, None)
            lists.unread.discard(page)


class _Lists:
    """The four lists of one pool, oldest first: T1 `once`, T2 `again`, B1 `once_ghosts`, B2 `again_ghosts`."""

    def __init__(self, capacity_pages: int) -> None:
        self._capacity_pages = capacity_pages
        self._target_pages = 0.0
        """Length that T1 should have."""
        self.once: OrderedDict[int, None] = OrderedDict()
        self.unread: set[int] = set()
        """Pages of T1 that came without being read, and were not yet."""
        self.again: OrderedDict[int, None] = OrderedDict()
        self.once_ghosts: OrderedDict[int, None] = OrderedDict()
        self.again_ghosts: OrderedDict[int, None] = OrderedDict()

    def arrived(self, page: int) -> None:
        self.once_ghosts.pop(page, None)
        self.again_ghosts.pop(page, None)
        self.once[page] = None
        self.unread.add(page)

    def read(self, page: int) -> None:
        if page in self.unread:
            self.unread.discard(page)
            self.once.move_to_end(page)
        elif page in self.once or page in self.again:
            self.once.pop(page, None)
            self.again[page] = None
            self.again.move_to_end(page)
        elif page in self.once_ghosts:
            step = max(len(self.again_ghosts) / len(self.once_ghosts), 1.0)
            self._target_pages = min(self._target_pages + step, float(self._capacity_pages))
            del self.once_ghosts[page]
            self.again[page] = None
        elif page in self.again_ghosts:
            step = max(len(self.once_ghosts) / len(self.again_ghosts), 1.0)
            self._target_pages = max(self._target_pages - step, 0.0)
            del self.again_ghosts[page]
            self.again[page] = None
        else:
            self.once[page] = None

    def give(self, evictable: BoolArray, spared: BoolArray | None) -> int | None:
        """Let one page go and return it; None where none may leave."""
        choices = [(self.once, self.once_ghosts), (self.again, self.again_ghosts)]
        if len(self.once) <= self._target_pages:
            choices.reverse()
        for pages, ghosts in choices:
            for page in pages:
                if may_leave(page, evictable, spared):
                    del pages[page]
                    self.unread.discard(page)
                    ghosts[page] = None
                    return page
        return None

    def cut_ghosts(self) -> None:
        while self.once_ghosts and len(self.once) + len(self.once_ghosts) > self._capacity_pages:
            self.once_ghosts.popitem(last=False)
        live = len(self.once) + len(self.again) + len(self.once_ghosts)
        while self.again_ghosts and live + len(self.again_ghosts) > 2 * self._capacity_pages:
            self.again_ghosts.popitem(last=False)
