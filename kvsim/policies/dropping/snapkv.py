"""Dropping once and for all: the first scores say which pages of the prompt stay."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Plan, Setting, View, scores_of
from kvsim.policies.dropping.share import Dropping, lowest, over_share, plan_of
from kvsim.types import FloatArray


class SnapKv(Dropping):
    """Rank the prompt's pages by their scores at the first decode step, and never again; what leaves is gone.

    After SnapKV (arXiv 2404.14469); differs: the window of observation is the first decoded token instead of the
    prompt's last 32, because an access trace begins there; whole pages, all heads of a layer together, so that nothing
    is pooled; and the budget is fixed, so each page that is generated pushes out the lowest of the prompt's, and then
    the oldest of its own kind.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        grid = setting.grid
        self._rank: FloatArray = np.full(grid.num_pages, np.inf)  # that of a generated page, which stays longest
        self._is_ranked = np.zeros(grid.num_layers, dtype=np.bool_)

    def decide(self, view: View) -> Plan:
        """Return the prompt's pages of the lowest rank."""
        if not self._is_ranked[view.layer]:
            self._rank[view.selected] = scores_of(view.selected, view, self._setting.grid)
            self._is_ranked[view.layer] = True
        return plan_of([lowest(pages, self._rank[pages], n) for _, pages, n in over_share(view, self._setting)])
