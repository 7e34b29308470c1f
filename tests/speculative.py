"""A small plug-in policy that fetches what the layer before foretells: what tests drive `View.speculation` with."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from kvsim.policies.base import Plan, Setting, View
from kvsim.types import IntArray, PageIds
from tests.accesses import OwnPolicy


class Speculative(OwnPolicy):
    """Prefetch the next layer's pages of highest foretold score; evict the smallest ids that may leave."""

    reads_speculation: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self._grid = setting.grid
        self.seen: list[tuple[int, int, IntArray]] = []
        """Step, layer and best foretold page of each sequence, wherever something was foretold."""

    def decide(self, view: View) -> Plan:
        """Return the likeliest pages of the next layer and as many victims as that takes."""
        wanted = self._wanted(view)
        may_leave = np.flatnonzero(view.evictable)
        wanted = wanted[: max(0, may_leave.size + view.free_slots)]
        return Plan(victims=may_leave[: max(0, wanted.size - view.free_slots)], prefetches=wanted)

    def _wanted(self, view: View) -> PageIds:
        if view.speculation is None:
            return np.empty(0, dtype=np.int64)
        self.seen.append((view.step, view.layer, view.speculation.argmax(axis=1)))
        found = []
        for sequence, scores in enumerate(view.speculation):
            first = self._grid.first_page(sequence=sequence, layer=view.layer + 1)
            best = first + np.argsort(-scores.astype(np.float64), kind="stable")
            found.append(best[view.prefetchable[best]][:4])
        wanted: PageIds = np.concatenate(found)[: view.prefetch_quota]
        return wanted
