"""Prefetching by a speculated query: what enters this layer already predicts what the next will attend to."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.prefetchers.lookahead import Lookahead, LookaheadPrefetcher, log_scores
from kvsim.types import FloatArray, PageIds


class Speculation(LookaheadPrefetcher):
    """Expect of the next layer the pages that score best by its own query projection of this layer's input.

    After InfiniGen (OSDI 2024); differs: scores are of pages and whole queries, not of tokens and a few columns. The
    first layer has none before it in a step: for it the scores of its last step stand in.

    Parameters
    ----------
    reach_frac
        Pages expected, in multiples of what the last step read.
    """

    reads_speculation: ClassVar[bool] = True

    def __init__(self, setting: Setting, *, reach_frac: float = 1.0) -> None:
        self._lookahead = Lookahead(setting, reach_frac=reach_frac, ahead_layers=1)
        grid = setting.grid
        self._scored: FloatArray = np.zeros((grid.num_layers, grid.num_sequences, grid.pages_per_layer))

    def wanted(self, view: View) -> PageIds:
        """Return the next layer's best pages by predicted score that are not there."""
        grid = self._lookahead.grid
        self._scored[view.layer] = log_scores(view.scores, grid)
        layer = self._lookahead.layer(view)
        ranks = self._scored[layer] if view.speculation is None else log_scores(view.speculation, grid)
        return self._lookahead.likeliest(view, layer, ranks)[: view.prefetch_quota]
