"""Dropping once and for all: the first scores say which pages of the prompt stay."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from kvsim.policies.base import Plan, Setting, View
from kvsim.policies.dropping.share import lowest, over_share, plan_of
from kvsim.types import FloatArray, PageIds


class SnapKv:
    """Rank the prompt's pages by their scores at the first decode step, and never again; what leaves is gone.

    After SnapKV (arXiv 2404.14469); differs: the window of observation is the first decoded token instead of the
    prompt's last 32, because an access trace begins there; whole pages, all heads of a layer together, so that nothing
    is pooled; and the budget is fixed, so each page that is generated pushes out the lowest of the prompt's, and then
    the oldest of its own kind.
    """

    attends: ClassVar[Literal["selection", "everything", "resident"]] = "resident"
    holds: ClassVar[Literal["budget", "everything"]] = "budget"
    reads_selection: ClassVar[bool] = True

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        grid = setting.grid
        self._rank: FloatArray = np.full(grid.num_pages, np.inf)
        self._is_ranked = np.zeros(grid.num_layers, dtype=np.bool_)

    def start(self, resident: PageIds) -> None:
        """Nothing is known of the prompt's attention."""

    def page_opened(self, page: int) -> None:
        """Nothing to remember: a generated page has no rank and stays longest."""

    def decide(self, view: View) -> Plan:
        """Return the prompt's pages of the lowest rank."""
        if not self._is_ranked[view.layer]:
            grid = self._setting.grid
            sequences, indices = np.divmod(view.selected, grid.num_layers * grid.pages_per_layer)
            self._rank[view.selected] = view.scores[sequences, indices % grid.pages_per_layer]
            self._is_ranked[view.layer] = True
        return plan_of([lowest(pages, self._rank[pages], n) for _, pages, n in over_share(view, self._setting)])
