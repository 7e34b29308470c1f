"""Dropping what has drawn the least attention so far: heavy hitters and the latest tokens stay."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Plan, Setting, View, scores_of
from kvsim.policies.dropping.share import Dropping, lowest, over_share, plan_of, retained_share
from kvsim.types import FloatArray


class HeavyHitters(Dropping):
    """Keep the latest pages and those of the largest accumulated score; what leaves is gone.

    After H2O (arXiv 2306.14048); differs: whole pages, all heads of a layer together, and what is summed is the
    selector's score of each page that was kept, from the first decode step on. By ``selector.channel = "mass"`` that
    is attention itself; an estimate stands in for it otherwise.

    Parameters
    ----------
    recent_frac
        Share of the budget that belongs to the latest pages, the open one among them.
    """

    def __init__(self, setting: Setting, *, recent_frac: float = 0.5) -> None:
        if not 0 <= recent_frac < 1:
            raise ValueError(f"recent_frac must be in [0, 1), got {recent_frac}")
        super().__init__(setting)
        self._num_recent = int(recent_frac * retained_share(setting))
        self._total: FloatArray = np.zeros(setting.grid.num_pages)

    def decide(self, view: View) -> Plan:
        """Return the pages of least accumulated score that are not among the latest."""
        grid = self._setting.grid
        self._total[view.selected] += scores_of(view.selected, view, grid)
        victims = []
        for sequence, pages, count in over_share(view, self._setting):
            first = grid.first_page(sequence=sequence, layer=view.layer)
            last = view.selected[view.selected < first + grid.pages_per_layer][-1]
            old = pages[pages <= last - self._num_recent]
            chosen = lowest(old, self._total[old], count)
            # A window so wide that the old ones do not suffice gives up its own oldest.
            rest = pages[pages > last - self._num_recent][: count - chosen.size]
            victims.append(np.concatenate((chosen, rest)))
        return plan_of(victims)
