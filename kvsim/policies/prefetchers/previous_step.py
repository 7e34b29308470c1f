"""Prefetching what the last step read: a layer reads much of what it read one step before."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.prefetchers.lookahead import Lookahead, LookaheadPrefetcher, is_selected, log_scores
from kvsim.types import FloatArray, PageIds


class PreviousStep(LookaheadPrefetcher):
    """Expect of a coming layer the selection of its last step.

    After FreeKV (arXiv 2505.13109), whose correction (fetch on demand where the guess was wrong) is here what happens
    to every miss; differs: attention waits for the pages that it selects now, and never reads the guess. Right after a
    step all of its selection is on the device, so there is something to fetch only once other layers have pushed it
    out. With a reach above 1 the best of the last step's scores follow.

    Parameters
    ----------
    reach_frac
        Pages expected, in multiples of what the last step read.
    ahead_layers
        How many layers before its own a page is asked for.
    """

    def __init__(self, setting: Setting, *, reach_frac: float = 1.0, ahead_layers: int = 1) -> None:
        self._lookahead = Lookahead(setting, reach_frac=reach_frac, ahead_layers=ahead_layers)
        grid = setting.grid
        self._ranks: FloatArray = np.zeros((grid.num_layers, grid.num_sequences, grid.pages_per_layer))

    def wanted(self, view: View) -> PageIds:
        """Return what the coming layer read last and is not there, by score."""
        grid = self._lookahead.grid
        # A selection differs in rank from the rest by more than any two scores do.
        self._ranks[view.layer] = log_scores(view.scores, grid) + 100.0 * is_selected(view, grid)
        layer = self._lookahead.layer(view)
        return self._lookahead.likeliest(view, layer, self._ranks[layer])[: view.prefetch_quota]
