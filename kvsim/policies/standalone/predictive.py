"""Predictive paging by the next layer's predicted scores, asked for only where layers still wait for pages."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.policies.base import NO_PAGES, NOTHING, Plan, Setting, View
from kvsim.policies.prefetchers.lookahead import SCORE_FLOOR
from kvsim.policies.standalone.attention import Attention
from kvsim.types import BoolArray, FloatArray, IntArray, PageIds


class Predictive(Attention):
    """Fetch a layer ahead what the next layer's predicted scores say it will read; evict by predicted use.

    As `Attention`, with one addition: while layer l is decided, the pages of layer l + 1 get their predicted use from
    l's prediction of that layer's scores (InfiniGen, OSDI 2024), each corrected by the exponential mean of its earlier
    errors, ``log(score) - log(predicted)``: the ratio of a score to that of the last page expected to be read, plus 1
    for those expected, as many as the layer read last. Pages of a use below 1 are worth keeping by their use; the
    others by how soon their layer is computed next, so that what leaves is needed latest (Belady's rule by predicted
    readings). A page is fetched if its use passes `confidence` and it is worth more than the page it pushes out. The
    correction and the common currency with history are ours.

    A prediction costs time in every layer, whether it helps or not. So a layer is predicted only while it needs pages:
    while the mean over steps of its misses and used prefetches is at least `pays_from_pages`. Other layers are
    prefetched by history alone, as `Attention` does after their own decision. `reads_speculation` says before each
    decision whether the layer after it is predicted.

    Parameters
    ----------
    error_decay_frac
        Weight of the past in a page's correction.
    reach_frac
        Pages expected to be read, in multiples of what the layer read last.
    pays_from_pages
        Pages that a layer needs in a step from which predicting it pays: about the time of a prediction over the time
        that the link takes for a page. 0 predicts always.
    need_decay_frac
        Weight of the past in what a layer needs.
    """

    reads_speculation: bool = True

    def __init__(
        self,
        setting: Setting,
        *,
        decay_frac: float = 0.7,
        target_precision_frac: float = 0.5,
        confidence: float = 0.5,
        confidence_step: float = 0.01,
        error_decay_frac: float = 0.8,
        reach_frac: float = 1.5,
        pays_from_pages: float = 2.0,
        need_decay_frac: float = 0.8,
    ) -> None:
        super().__init__(
            setting,
            decay_frac=decay_frac,
            target_precision_frac=target_precision_frac,
            confidence=confidence,
            confidence_step=confidence_step,
        )
        for name, frac in {"error_decay_frac": error_decay_frac, "need_decay_frac": need_decay_frac}.items():
            if not 0 <= frac < 1:
                raise ValueError(f"{name} must be in [0, 1), got {frac}")
        if not reach_frac > 0:
            raise ValueError(f"reach_frac must be above 0, got {reach_frac}")
        if pays_from_pages < 0:
            raise ValueError(f"pays_from_pages must be at least 0, got {pays_from_pages}")
        grid = setting.grid
        self._error_decay_frac = error_decay_frac
        self._reach_frac = reach_frac
        self._pays_from_pages = pays_from_pages
        self._need_decay_frac = need_decay_frac
        self._predicted: FloatArray = np.zeros(grid.num_pages)
        self._correction: FloatArray = np.zeros(grid.num_pages)
        self._was_predicted: BoolArray = np.zeros(grid.num_layers, dtype=np.bool_)
        self._is_corrected: BoolArray = np.zeros(grid.num_layers, dtype=np.bool_)
        self._num_read: IntArray = np.zeros((grid.num_layers, grid.num_sequences), dtype=np.int64)
        self._needs: NDArray[np.float64] = np.full(grid.num_layers, np.nan)

    def start(self, resident: PageIds) -> None:
        """Predict nothing before a layer has needed pages."""
        super().start(resident)
        self.reads_speculation = False

    def decide(self, view: View) -> Plan:
        """Return the pages of least predicted use as victims, and the likely ones of the next layer, or of this one."""
        used = int(np.count_nonzero(self._is_unread[view.selected]))
        self._learn(view)
        self._learn_errors(view)
        self._count(view, used)
        coming = view.layer
        if view.speculation is not None:
            coming = (view.layer + 1) % self._grid.num_layers
            self._expect(view, coming)
        candidates = self._likely(view, coming)
        due = max(0, -view.free_slots)
        if self._pools.count == 1 or coming == view.layer:
            both = self._least_of(view, view.layer, max(0, candidates.size - view.free_slots))
            leaving, pushed_out, num_free = both[:due], both[due:], max(0, view.free_slots)
        else:
            num_free = self._pools.num_free(view.resident, coming)
            leaving = self._least_of(view, view.layer, due)
            pushed_out = self._least_of(view, coming, max(0, candidates.size - num_free))
        rivals = candidates[num_free : num_free + pushed_out.size]
        is_worth = self._worth(rivals, view.layer) > self._worth(pushed_out, view.layer)
        num_worth = rivals.size if is_worth.all() else int(np.argmin(is_worth))
        victims = np.concatenate((leaving, pushed_out[:num_worth]))
        prefetches = candidates[: min(num_free, candidates.size) + num_worth]
        self._adapt(used=0, wasted=int(np.count_nonzero(self._is_unread[victims])))
        self._is_unread[victims] = False
        self._is_unread[prefetches] = True
        self._choose_prediction(view.layer)
        return Plan(victims=victims, prefetches=prefetches) if victims.size or prefetches.size else NOTHING

    def _choose_prediction(self, layer: int) -> None:
        """Say whether the next decision's layer should predict the one after it."""
        need = self._needs[(layer + 2) % self._grid.num_layers]
        self.reads_speculation = bool(need >= self._pays_from_pages)  # NaN: nothing is known yet

    def _learn_errors(self, view: View) -> None:
        if not self._was_predicted[view.layer]:
            return
        decay_frac = self._error_decay_frac if self._is_corrected[view.layer] else 0.0
        for first, scores in zip(self._grid.first_pages(view.layer), view.scores, strict=True):
            pages = slice(first, first + scores.size)
            error = np.log(scores.astype(np.float64) + SCORE_FLOOR) - self._predicted[pages]
            self._correction[pages] = decay_frac * self._correction[pages] + (1.0 - decay_frac) * error
        self._was_predicted[view.layer], self._is_corrected[view.layer] = False, True

    def _count(self, view: View, used: int) -> None:
        """Take down how many pages the layer reads, and how many had to come for it."""
        firsts = self._grid.first_pages(view.layer)
        reads_of = np.searchsorted(view.selected, firsts + self._grid.pages_per_layer)
        self._num_read[view.layer] = reads_of - np.searchsorted(view.selected, firsts)
        came, need = float(view.misses.size + used), self._needs[view.layer]
        decay_frac = self._need_decay_frac
        self._needs[view.layer] = came if np.isnan(need) else decay_frac * need + (1 - decay_frac) * came

    def _expect(self, view: View, layer: int) -> None:
        """Set the predicted use of the pages of `layer` that may come or go."""
        assert view.speculation is not None
        firsts = self._grid.first_pages(layer)
        self._num_read[layer] = np.where(self._num_read[layer] == 0, self._num_read[view.layer], self._num_read[layer])
        for sequence, (first, predicted) in enumerate(zip(firsts, view.speculation, strict=True)):
            pages = np.arange(first, first + predicted.size)
            self._predicted[pages] = np.log(predicted.astype(np.float64) + SCORE_FLOOR)
            is_movable = view.evictable[pages] | view.prefetchable[pages]
            num_fixed = int(np.count_nonzero(view.resident[pages] & ~is_movable))
            movable = pages[is_movable]
            if not movable.size:
                continue
            ranks = self._predicted[movable] + self._correction[movable]
            num_read = max(int(self._num_read[layer, sequence]) - num_fixed, 0)
            count = min(int(self._reach_frac * num_read), ranks.size)
            bar = np.partition(ranks, ranks.size - count)[ranks.size - count] if count else ranks.max()
            use = np.exp(ranks - bar)
            self._use[movable] = use + (ranks >= bar) if count else use
        self._was_predicted[layer] = True

    def _least_of(self, view: View, layer: int, count: int) -> PageIds:
        """Return up to `count` evictable pages of the pool of `layer`, the least worth first."""
        if count == 0:
            return NO_PAGES
        candidates = self._pools.candidates(view.evictable, self._pools.of_layer(layer), None)
        return candidates[np.argsort(self._worth(candidates, view.layer), kind="stable")[:count]]

    def _worth(self, pages: PageIds, layer: int) -> FloatArray:
        """Return what keeping pages is worth while `layer` is decided."""
        num_layers, use = self._grid.num_layers, self._use[pages]
        ahead = (self._grid.layer_of(pages) - layer - 1) % num_layers + 1
        is_expected = use >= 1.0
        worth: FloatArray = np.where(is_expected, 2.0 + num_layers - ahead - 1.0 / np.maximum(use, 1.0), use)
        return worth
