"""Prefetching for the next step: right after a layer's decision, what it read lately and has lost comes back."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.prefetchers.base import DecisionPrefetcher
from kvsim.types import IntArray, PageIds

NEVER = -(10**9)
"""Step of the last reading of a page that was not read yet."""


class NextStep(DecisionPrefetcher):
    """Want for a layer's next step what it read in its last `window_steps` steps and is not there, the latest first.

    The step-to-step reuse of FreeKV (arXiv 2505.13109) over a window, without its correction: a wrong guess is a miss.
    Ties go to the smallest id; nothing is spared, so what comes pushes out what the evictor names.
    """

    def __init__(self, setting: Setting, *, window_steps: int = 6) -> None:
        if window_steps < 1:
            raise ValueError(f"window_steps must be at least 1, got {window_steps}")
        self.window_steps = window_steps
        self._grid = setting.grid
        self._read_at: IntArray = np.full(setting.grid.num_pages, NEVER, dtype=np.int64)

    def wanted(self, view: View) -> PageIds:
        """Return the layer's pages that were read within the window and are not there."""
        self._read_at[view.selected] = view.step
        was_read = self._grid.of_layer(self._read_at, view.layer) > view.step - self.window_steps
        pages = self._grid.layer_pages(view.layer, was_read & self._grid.of_layer(view.prefetchable, view.layer))
        latest_first = np.argsort(-self._read_at[pages], kind="stable")
        return pages[latest_first[: view.prefetch_quota]]
