"""Reactive paging: misses are fetched on demand and the least recently used page leaves."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Literal

import numpy as np

from kvsim.policies.base import NOTHING, Plan, Setting, View
from kvsim.types import PageIds


class Lru:
    """Evict the page that attention read longest ago; never prefetch.

    Pages read in one decision age in order of their ids. After Denning, "The working set model for program
    behavior", CACM 1968, with pages of layers and sequences in one pool (or a pool a layer). O(selected + skipped).
    """

    attends: ClassVar[Literal["selection", "everything"]] = "selection"
    holds: ClassVar[Literal["budget", "everything"]] = "budget"
    reads_selection: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self._grid = setting.grid
        self._is_shared = setting.partition == "shared"
        num_pools = 1 if self._is_shared else setting.grid.num_layers
        self._oldest_first: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(num_pools)]

    def start(self, resident: PageIds) -> None:
        """Take the pages of prefill as read in order of their ids."""
        for page in resident.tolist():
            self.page_opened(page)

    def page_opened(self, page: int) -> None:
        """Count the opening as a reading."""
        pool = 0 if self._is_shared else (page // self._grid.pages_per_layer) % self._grid.num_layers
        self._oldest_first[pool][page] = None

    def decide(self, view: View) -> Plan:
        """Return as many of the oldest evictable pages as slots are short."""
        order = self._oldest_first[0 if self._is_shared else view.layer]
        for page in view.selected.tolist():
            order[page] = None
            order.move_to_end(page)
        short = -view.free_slots
        if short <= 0:
            return NOTHING
        victims: list[int] = []
        evictable = view.evictable
        for page in order:
            if evictable[page]:
                victims.append(page)
                if len(victims) == short:
                    break
        for page in victims:
            del order[page]
        return Plan(victims=np.array(victims, dtype=np.int64))
