"""Prefetching by recent attention: pages near the bar of being selected, as far as prefetching them has paid."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.prefetchers.lookahead import Lookahead, LookaheadPrefetcher, is_selected
from kvsim.types import BoolArray, FloatArray, PageIds


class AttentionPrefetch(LookaheadPrefetcher):
    """Expect of a coming layer the pages whose recent score comes near to what it takes to be selected.

    The predictor of the policy ``attention`` with any eviction: predicted use is the exponential mean of a page's
    scores over the k-th largest of its layer (k pages were selected), plus 1 if the last step selected it. Pages above
    `confidence` are fetched; it falls when a prefetched page is read and rises when one leaves unread, so that the
    share of used ones settles at `target_precision_frac`. Above 1 it takes more than having been selected.

    Parameters
    ----------
    decay_frac
        Weight of the past in the mean.
    confidence
        Predicted use that a page must pass at first.
    confidence_step
        Change of `confidence` for a prefetched page read or wasted; 0 keeps it.
    ahead_layers
        How many layers before its own a page is asked for.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        decay_frac: float = 0.7,
        target_precision_frac: float = 0.5,
        confidence: float = 0.5,
        confidence_step: float = 0.01,
        ahead_layers: int = 1,
    ) -> None:
        if not 0 <= decay_frac < 1:
            raise ValueError(f"decay_frac must be in [0, 1), got {decay_frac}")
        if not 0 < target_precision_frac < 1:
            raise ValueError(f"target_precision_frac must be in (0, 1), got {target_precision_frac}")
        # The bar of confidence alone says how many pages are expected.
        self._lookahead = Lookahead(setting, reach_frac=float(setting.grid.pages_per_layer), ahead_layers=ahead_layers)
        grid = setting.grid
        self._decay_frac = decay_frac
        self._target_frac = target_precision_frac
        self._confidence_step = confidence_step
        self.confidence = confidence
        shape = grid.num_layers, grid.num_sequences, grid.pages_per_layer
        self._recent: FloatArray = np.zeros(shape)
        self._use: FloatArray = np.zeros(shape)
        self._is_unread: BoolArray = np.zeros(grid.num_pages, dtype=np.bool_)

    def left(self, victims: PageIds) -> None:
        """Learn which prefetches were wasted."""
        self._adapt(used=0, wasted=int(np.count_nonzero(self._is_unread[victims])))
        self._is_unread[victims] = False

    def wanted(self, view: View) -> PageIds:
        """Return the coming layer's pages of enough predicted use that are not there, the likeliest first."""
        self._learn(view)
        layer = self._lookahead.layer(view)
        likely = self._lookahead.likeliest(view, layer, self._use[layer], above=self.confidence)
        return likely[: view.prefetch_quota]

    def fetched(self, pages: PageIds) -> None:
        """Wait to see whether `pages` are read."""
        self._is_unread[pages] = True

    def _learn(self, view: View) -> None:
        self._adapt(used=int(np.count_nonzero(self._is_unread[view.selected])), wasted=0)
        self._is_unread[view.selected] = False
        chosen = is_selected(view, self._lookahead.grid)
        recent, use = self._recent[view.layer], self._use[view.layer]
        recent *= self._decay_frac
        recent[:, : view.scores.shape[1]] += (1 - self._decay_frac) * view.scores
        for sequence, count in enumerate(np.count_nonzero(chosen, axis=1).tolist()):
            row = recent[sequence]
            bar = np.partition(row, row.size - count)[row.size - count] if count else row.max()
            np.divide(row, max(float(bar), 1e-30), out=use[sequence])
        use += chosen

    def _adapt(self, *, used: int, wasted: int) -> None:
        change = wasted * self._target_frac - used * (1 - self._target_frac)
        self.confidence = min(max(self.confidence + self._confidence_step * change, 0.05), 2.0)
