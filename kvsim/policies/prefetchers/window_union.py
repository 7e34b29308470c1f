"""Prefetching what the last few steps read: a page comes back more often than a step later."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.prefetchers.lookahead import Lookahead, LookaheadPrefetcher, is_selected
from kvsim.types import FloatArray, PageIds


class WindowUnion(LookaheadPrefetcher):
    """Expect of a coming layer all that it selected in its last `window_steps` steps, the latest first.

    After SparseServe (arXiv 2509.24626), which sizes a request's working set by this union; differs: there it decides
    how many requests run at once, here what is fetched before it is read.

    Parameters
    ----------
    reach_frac
        Most pages expected, in multiples of what the last step read.
    ahead_layers
        How many layers before its own a page is asked for.
    """

    def __init__(
        self, setting: Setting, *, window_steps: int = 12, reach_frac: float = 4.0, ahead_layers: int = 1
    ) -> None:
        if window_steps < 1:
            raise ValueError(f"window_steps must be at least 1, got {window_steps}")
        self._window_steps = window_steps
        self._lookahead = Lookahead(setting, reach_frac=reach_frac, ahead_layers=ahead_layers)
        grid = setting.grid
        self._last_read: FloatArray = np.full((grid.num_layers, grid.num_sequences, grid.pages_per_layer), -np.inf)

    def wanted(self, view: View) -> PageIds:
        """Return what the coming layer read within the window and is not there, the latest first."""
        self._last_read[view.layer][is_selected(view, self._lookahead.grid)] = view.step
        layer = self._lookahead.layer(view)
        coming_step = view.step + (layer <= view.layer)
        likely = self._lookahead.likeliest(
            view, layer, self._last_read[layer], above=coming_step - self._window_steps - 0.5
        )
        return likely[: view.prefetch_quota]
