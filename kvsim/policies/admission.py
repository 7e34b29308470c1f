"""Admission: which of the fetched pages are kept, and which are only on trial.

A miss must be fetched whatever admission says, because attention reads the page now. So to refuse a page can only
mean that it is the first to leave.
"""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import NO_PAGES, Setting, View
from kvsim.policies.evictors.pools import Pools, take_first
from kvsim.types import BoolArray, IntArray, PageIds


class Always:
    """Keep every page until the evictor lets it go."""

    def __init__(self, setting: Setting) -> None:
        del setting

    def touch(self, view: View) -> None:
        """Nothing to learn."""

    def first_out(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return no pages: nothing is on trial."""
        del view, pool, count, spared
        return NO_PAGES

    def left(self, victims: PageIds) -> None:
        """Nothing to forget."""


class SecondTouch:
    """Fetch a page for its first reading on trial: it is the first to leave, unless it is read again before.

    A miss is on trial where the page's last reading lies more than `memory_steps` steps back, or there was none. Pages
    on trial leave in the order in which they came, ties to the smallest id; one that is read again is kept as any
    other. What prefill left, opened pages and prefetched ones are never on trial: a prefetcher has asked for
    them. After cache-on-second-hit of Maggs and Sitaraman, "Algorithmic nuggets in content delivery", CCR 2015;
    differs: exact times of readings for a Bloom filter, and a page is fetched all the same. O(on trial).

    Parameters
    ----------
    memory_steps
        Steps after which a reading is forgotten.
    """

    def __init__(self, setting: Setting, *, memory_steps: int = 32) -> None:
        if memory_steps < 1:
            raise ValueError(f"memory_steps must be at least 1, got {memory_steps}")
        self._pools = Pools(setting)
        self._memory_steps = memory_steps
        self._read_at_step: IntArray = np.full(setting.grid.num_pages, -(10**9), dtype=np.int64)
        self._on_trial: list[dict[int, None]] = [{} for _ in range(self._pools.count)]

    def touch(self, view: View) -> None:
        """Put misses that were not read lately on trial, and end the trial of what is read again."""
        trial = self._on_trial[self._pools.of_layer(view.layer)]
        for page in view.selected.tolist():
            trial.pop(page, None)
        last_read = self._read_at_step[view.misses]
        for page in view.misses[view.step - last_read > self._memory_steps].tolist():
            trial[page] = None
        self._read_at_step[view.selected] = view.step

    def first_out(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the pages that have been on trial longest."""
        return take_first(self._on_trial[pool], count, view.evictable, spared)

    def left(self, victims: PageIds) -> None:
        """Forget pages that left for another reason."""
        for page in victims.tolist():
            self._on_trial[self._pools.of_page(page)].pop(page, None)
