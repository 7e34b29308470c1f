"""Prefetching by a small model that learns on the way: which features precede a page that is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kvsim.policies.base import Setting, View
from kvsim.policies.prefetchers.corrected import SpeculationErrors
from kvsim.policies.prefetchers.lookahead import Lookahead, LookaheadPrefetcher, is_selected, log_scores
from kvsim.types import BoolArray, FloatArray, PageIds

FEATURES = ("predicted", "corrected", "score", "frequency", "last", "recency", "distance", "affinity", "one")
"""What a page is judged by: `Learned` says what each is."""

PREDICTED_WEIGHTS = (3.44, 1.60, 0.43, 1.14, 0.48, -0.08, 0.05, 0.03, -0.64)
HISTORY_WEIGHTS = (0.0, 0.0, 6.52, 2.11, -0.46, -0.31, -0.21, 0.05, -0.16)
"""Weights at the start, by `FEATURES`, fitted to the capture smollm2-docs: of pages with a prediction and without."""

_SCORE_DECAY_FRAC = 0.5
_FREQUENCY_DECAY_FRAC = 0.9
_NEVER_READ_STEPS = 50


class Learned(LookaheadPrefetcher):
    """Expect of the next layer the pages to which a logistic regression gives more than `threshold`.

    Features of a page: its *predicted* score (InfiniGen's speculation) over the bar, in logarithms, where the bar is
    the k-th best of its layer and k as many as the last step read; the *corrected* part of it (`SpeculationErrors`);
    its *score*, an exponential mean over steps, over the bar; the *frequency* with which it was read, likewise;
    whether the *last* step read it; the *recency* and the *distance*, logarithms of steps since it was read and of
    pages to the end; its *affinity*, the score of the same tokens in this layer over its bar. The first layer, which
    nothing predicts, has weights of its own. After each decision the regression takes a step of gradient descent on
    what the layer then read: hits and misses, which are logical. Its first weights were fitted to one text;
    `learning_rate` 0 keeps them.

    Parameters
    ----------
    threshold
        Probability above which a page is fetched.
    learning_rate
        Step along the mean gradient of the log-likelihood over a layer's pages.
    """

    reads_speculation: ClassVar[bool] = True

    def __init__(
        self,
        setting: Setting,
        *,
        threshold: float = 0.2,
        learning_rate: float = 0.05,
        predicted_weights: Sequence[float] = PREDICTED_WEIGHTS,
        history_weights: Sequence[float] = HISTORY_WEIGHTS,
    ) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be in (0, 1), got {threshold}")
        if not len(predicted_weights) == len(history_weights) == len(FEATURES):
            raise ValueError(
                f"predicted_weights and history_weights should have {len(FEATURES)} numbers each: {', '.join(FEATURES)}"
            )
        self._grid = grid = setting.grid
        self._above = float(np.log(threshold / (1 - threshold)))
        self._learning_rate = learning_rate
        # The threshold alone says how many pages are expected.
        self._lookahead = Lookahead(setting, reach_frac=float(grid.pages_per_layer), ahead_layers=1)
        self._errors = SpeculationErrors(setting, decay_frac=0.8)
        self.weights: FloatArray = np.array([history_weights, predicted_weights], dtype=np.float64)
        """Weights by `FEATURES`: without a predicted score, and with one, ``[2, num_features]``."""
        shape = grid.num_layers, grid.num_sequences, grid.pages_per_layer
        self._features: FloatArray = np.zeros((*shape, len(FEATURES)))
        self._judged_by: NDArray[np.int64] = np.full(grid.num_layers, -1)
        """Row of `weights` that the layer's pages were judged by for its next decision, -1 before the first."""
        self._free: BoolArray = np.zeros(shape, dtype=np.bool_)
        self._score: FloatArray = np.zeros(shape)
        self._frequency: FloatArray = np.zeros(shape)
        self._last_read: FloatArray = np.full(shape, -np.inf)

    def wanted(self, view: View) -> PageIds:
        """Return the next layer's likely pages that are not there, the likeliest first."""
        read = is_selected(view, self._grid)
        layer = self._lookahead.layer(view)
        self._learn(view.layer, read)
        self._note(view, read)
        judged_by = 0 if view.speculation is None else 1
        free = self._lookahead.free_pages(view, layer)
        self._features[layer] = self._features_of(view, layer, free)
        self._judged_by[layer] = judged_by
        self._free[layer] = free
        ranks = self._features[layer] @ self.weights[judged_by]
        return self._lookahead.likeliest(view, layer, ranks, above=self._above)[: view.prefetch_quota]

    def _learn(self, layer: int, read: BoolArray) -> None:
        """Take a step towards weights by which what was just read would have been likelier."""
        row = int(self._judged_by[layer])
        free = self._free[layer]
        if row < 0 or not free.any():
            return
        features = self._features[layer][free]
        probability = 1 / (1 + np.exp(-np.clip(features @ self.weights[row], -30, 30)))
        gradient = (read[free] - probability) @ features / probability.size
        self.weights[row] += self._learning_rate * gradient

    def _note(self, view: View, read: BoolArray) -> None:
        """Take down what this layer's scores and selection say of its pages."""
        layer = view.layer
        over_bar = _over_bar(log_scores(view.scores, self._grid), np.count_nonzero(read, axis=1))
        first = self._judged_by[layer] < 0 and not np.isfinite(self._last_read[layer]).any()
        decay_frac = 0.0 if first else _SCORE_DECAY_FRAC
        self._score[layer] = decay_frac * self._score[layer] + (1 - decay_frac) * over_bar
        decay_frac = 0.0 if first else _FREQUENCY_DECAY_FRAC
        self._frequency[layer] = decay_frac * self._frequency[layer] + (1 - decay_frac) * read
        self._last_read[layer][read] = view.step
        self._now = over_bar

    def _features_of(self, view: View, layer: int, free: BoolArray) -> FloatArray:
        """Return the features of a layer's pages, ``[num_sequences, pages_per_layer, num_features]``."""
        corrected = self._errors.ranks(view, layer)
        features: FloatArray = np.zeros((*corrected.shape, len(FEATURES)))
        if view.speculation is not None:
            correction = self._errors.correction[layer]
            num_expected = self._lookahead.num_expected(view, layer, free)
            predicted = np.where(free, corrected - correction, -np.inf)
            bar = corrected - correction - _over_bar(predicted, num_expected, shown=corrected - correction)
            features[..., 0] = corrected - correction - bar
            features[..., 1] = correction
        step = view.step + (layer <= view.layer)
        features[..., 2] = self._score[layer]
        features[..., 3] = self._frequency[layer]
        features[..., 4] = self._last_read[layer] == step - 1
        features[..., 5] = np.log1p(np.minimum(step - 1 - self._last_read[layer], _NEVER_READ_STEPS))
        features[..., 6] = np.log1p(np.arange(self._grid.pages_per_layer, 0, -1))
        features[..., 7] = self._now
        features[..., 8] = 1.0
        return features


def _over_bar(logs: FloatArray, counts: NDArray[np.int64], shown: FloatArray | None = None) -> FloatArray:
    """Return `shown` (or `logs`) less the count-th largest of `logs`, by sequence, ``[num_sequences, pages]``."""
    ordered = -np.sort(-logs, axis=1)
    place = np.clip(counts - 1, 0, logs.shape[1] - 1)
    bars = np.take_along_axis(ordered, place[:, None], axis=1)
    bars = np.where(np.isfinite(bars), bars, 0.0)
    return (logs if shown is None else shown) - bars
