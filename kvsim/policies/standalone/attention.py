"""Predictive paging: pages are ranked by recent attention and by the step before, and the likely ones come early."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from kvsim.policies.base import NO_PAGES, NOTHING, Plan, Setting, View
from kvsim.policies.evictors.pools import Pools
from kvsim.types import PageIds

_LOW_FACTOR = 16
"""A bound on predicted use is set so that so many times the victims of one decision lie below it."""


class Attention:
    """Rank pages by decayed score relative to what it takes to be selected; evict the lowest, fetch the highest.

    The predicted use of a page is ``recent / bar``, where `recent` is the exponential mean of its scores over steps and
    `bar` the k-th largest of its layer (k pages were selected), plus 1 if the last step selected it: layers of unlike
    sharpness compare in one pool. After a decision on layer l, the best pages of layer l that own no slot are fetched
    for the next step, at most the quota, if their predicted use passes `confidence` and that of the page they push
    out. `confidence` adapts: it falls when a prefetched page is read, and rises when one leaves unread, so that the
    share of used ones settles at `target_precision_frac`. After the ranking of ArkVale (NeurIPS 2024) and the
    step-to-step reuse of FreeKV (arXiv 2505.13109); ours: the bar, and confidence by used and wasted alone.

    Parameters
    ----------
    decay_frac
        Weight of the past in `recent`.
    target_precision_frac
        Share of prefetched pages that should be read before they leave.
    confidence
        Predicted use that a page must pass at first.
    """

    attends: ClassVar[Literal["selection", "everything", "resident"]] = "selection"
    holds: ClassVar[Literal["budget", "everything"]] = "budget"
    reads_selection: ClassVar[bool] = True

    def __init__(
        self,
        setting: Setting,
        *,
        decay_frac: float = 0.7,
        target_precision_frac: float = 0.5,
        confidence: float = 0.5,
        confidence_step: float = 0.01,
    ) -> None:
        if not 0 <= decay_frac < 1:
            raise ValueError(f"decay_frac must be in [0, 1), got {decay_frac}")
        if not 0 < target_precision_frac < 1:
            raise ValueError(f"target_precision_frac must be in (0, 1), got {target_precision_frac}")
        self._grid = setting.grid
        self._pools = Pools(setting)
        self._decay_frac = decay_frac
        self._target_frac = target_precision_frac
        self._confidence_step = confidence_step
        self.confidence = confidence
        self._recent: NDArray[np.float64] = np.zeros(setting.grid.num_pages)
        self._use: NDArray[np.float64] = np.zeros(setting.grid.num_pages)
        self._low_use = -1.0
        """Bound below which victims were found last: it only saves time, the victims are the same without."""
        self._is_unread = np.zeros(setting.grid.num_pages, dtype=np.bool_)

    def start(self, resident: PageIds) -> None:
        """Nothing is known of the pages yet; the latest ones are as likely as any."""

    def page_opened(self, page: int) -> None:
        """Expect the open page to be read: it always is."""
        self._use[page] = 2.0

    def decide(self, view: View) -> Plan:
        """Return the pages of least predicted use as victims, and this layer's likely ones for the next step."""
        self._learn(view)
        coming = self._likely(view, view.layer)
        victims = self._least_used(view, max(0, coming.size - view.free_slots))
        must_leave = max(0, -view.free_slots)
        num_free = max(0, view.free_slots)
        # A prefetch beyond the free slots is worth it only against a victim of lower predicted use.
        pushed_out = self._use[victims[must_leave:]]
        rivals = self._use[coming[num_free : num_free + pushed_out.size]]
        num_worth = int(np.argmin(rivals > pushed_out)) if not (rivals > pushed_out).all() else rivals.size
        victims = victims[: must_leave + num_worth]
        prefetches = coming[: min(num_free, coming.size) + num_worth]
        self._adapt(used=0, wasted=int(np.count_nonzero(self._is_unread[victims])))
        self._is_unread[victims] = False
        self._is_unread[prefetches] = True
        return Plan(victims=victims, prefetches=prefetches) if victims.size or prefetches.size else NOTHING

    def _learn(self, view: View) -> None:
        grid = self._grid
        for first, scores in zip(grid.first_pages(view.layer), view.scores.astype(np.float64), strict=True):
            pages = slice(first, first + scores.size)
            recent = self._recent[pages]
            recent *= self._decay_frac
            recent += (1 - self._decay_frac) * scores
            low, high = np.searchsorted(view.selected, (first, first + grid.pages_per_layer))
            count = int(high - low)
            bar = np.partition(recent, recent.size - count)[recent.size - count] if count else recent.max()
            np.divide(recent, max(float(bar), 1e-30), out=self._use[pages])
        self._use[view.selected] += 1.0
        self._adapt(used=int(np.count_nonzero(self._is_unread[view.selected])), wasted=0)
        self._is_unread[view.selected] = False

    def _likely(self, view: View, layer: int) -> PageIds:
        """Return the pages of `layer` of enough predicted use that are not there, the likeliest first."""
        if view.prefetch_quota == 0:
            return NO_PAGES
        is_likely = self._grid.of_layer(self._use, layer) > self.confidence
        candidates = self._grid.layer_pages(layer, is_likely & self._grid.of_layer(view.prefetchable, layer))
        best_first = np.argsort(-self._use[candidates], kind="stable")
        return candidates[best_first[: view.prefetch_quota]]

    def _least_used(self, view: View, count: int) -> PageIds:
        """Return up to `count` evictable pages, least predicted use first, ties to the smallest id."""
        if count == 0:
            return NO_PAGES
        candidates = self._pools.candidates(view.evictable, self._pools.of_layer(view.layer), None)
        use = self._use[candidates]
        is_low = use <= self._low_use
        if np.count_nonzero(is_low) < min(count, use.size):
            # The bound of an earlier decision is too low by now: take one with a few times as many below it.
            place = min(_LOW_FACTOR * count, use.size) - 1
            self._low_use = float(np.partition(use, place)[place])
            is_low = use <= self._low_use
        candidates, use = candidates[is_low], use[is_low]
        return candidates[np.argsort(use, kind="stable")[:count]]

    def _adapt(self, *, used: int, wasted: int) -> None:
        change = wasted * self._target_frac - used * (1 - self._target_frac)
        self.confidence = min(max(self.confidence + self._confidence_step * change, 0.05), 1.0)
