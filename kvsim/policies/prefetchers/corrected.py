"""Prefetching by a speculated query whose errors are remembered: a page misjudged once is misjudged again."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.prefetchers.lookahead import Lookahead, LookaheadPrefetcher, log_scores
from kvsim.types import FloatArray, PageIds


class CorrectedSpeculation(LookaheadPrefetcher):
    """Expect of the next layer the pages that score best by predicted score times how wrong it was before.

    What one layer's input lacks for the next one's query (that layer's own attention and MLP) errs alike from step to
    step, page by page. So each page keeps an exponential mean of ``log(score) - log(predicted)``, the latest counting
    ``1 - decay_frac``, which is added to the logarithm of its predicted score. The speculation is InfiniGen's (OSDI
    2024); the correction is ours. For the first layer, which nothing predicts, an exponential mean of the logarithms
    of its scores stands in.

    Parameters
    ----------
    reach_frac
        Pages expected, in multiples of what the last step read.
    decay_frac
        Weight of the past in a page's correction.
    """

    reads_speculation: ClassVar[bool] = True

    def __init__(self, setting: Setting, *, reach_frac: float = 1.0, decay_frac: float = 0.8) -> None:
        if not 0 <= decay_frac < 1:
            raise ValueError(f"decay_frac must be in [0, 1), got {decay_frac}")
        self._lookahead = Lookahead(setting, reach_frac=reach_frac, ahead_layers=1)
        self.errors = SpeculationErrors(setting, decay_frac=decay_frac)

    def wanted(self, view: View) -> PageIds:
        """Return the next layer's best pages by corrected score that are not there."""
        layer = self._lookahead.layer(view)
        ranks = self.errors.ranks(view, layer)
        return self._lookahead.likeliest(view, layer, ranks)[: view.prefetch_quota]


class SpeculationErrors:
    """By how much each page was predicted wrongly, as logarithms of ratios, and what that makes of a prediction."""

    def __init__(self, setting: Setting, *, decay_frac: float) -> None:
        grid = setting.grid
        shape = grid.num_layers, grid.num_sequences, grid.pages_per_layer
        self._grid = grid
        self._decay_frac = decay_frac
        self._predicted: FloatArray = np.zeros(shape)
        self._was_predicted = np.zeros(grid.num_layers, dtype=np.bool_)
        self.correction: FloatArray = np.zeros(shape)
        """Added to the logarithm of a predicted score, ``[num_layers, num_sequences, pages_per_layer]``."""
        self._is_corrected = np.zeros(grid.num_layers, dtype=np.bool_)
        self._mean: FloatArray = np.zeros(shape)
        """Exponential mean of the logarithms of the scores, by layer, sequence and page."""
        self._is_known = np.zeros(grid.num_layers, dtype=np.bool_)

    def ranks(self, view: View, layer: int) -> FloatArray:
        """Learn from this layer's scores, and return corrected logarithms of the scores of `layer`."""
        scored = log_scores(view.scores, self._grid)
        self._mean[view.layer] = self._mixed(self._mean[view.layer], scored, self._is_known[view.layer])
        self._is_known[view.layer] = True
        if self._was_predicted[view.layer]:
            error = scored - self._predicted[view.layer]
            last = self.correction[view.layer]
            self.correction[view.layer] = self._mixed(last, error, self._is_corrected[view.layer])
            self._is_corrected[view.layer] = True
        if view.speculation is None:
            mean: FloatArray = self._mean[layer]
            return mean
        self._predicted[layer] = log_scores(view.speculation, self._grid)
        self._was_predicted[layer] = True
        ranks: FloatArray = self._predicted[layer] + self.correction[layer]
        return ranks

    def _mixed(self, last: FloatArray, latest: FloatArray, is_known: np.bool_) -> FloatArray:
        return self._decay_frac * last + (1 - self._decay_frac) * latest if is_known else latest
