"""What prefetchers share: which layer comes, how many pages it will read, and its likeliest pages in order."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View
from kvsim.policies.prefetchers.base import DecisionPrefetcher
from kvsim.types import BoolArray, FloatArray, IntArray, PageGrid, PageIds, Scores

SCORE_FLOOR = 1e-6
"""Added to a score before its logarithm: far below what selects a page, and finite where a score is 0."""


class Lookahead:
    """The layer that is `ahead_layers` away, and the pages it is likely to read.

    A layer is expected to read `reach_frac` times as many pages as the last step read of it, sinks, window and open
    page aside: they are read always and never leave. Where the last selections of all layers fit the budget together,
    no prefetch should push out one of another layer: it is more likely to be read than what would come for it. Where
    they do not fit, only what the coming layer is expected to read is spared.
    """

    def __init__(self, setting: Setting, *, reach_frac: float, ahead_layers: int) -> None:
        if not reach_frac > 0:
            raise ValueError(f"reach_frac must be above 0, got {reach_frac}")
        num_layers = setting.grid.num_layers
        if not 1 <= ahead_layers <= max(1, num_layers - 1):
            raise ValueError(f"ahead_layers must be from 1 to {max(1, num_layers - 1)}, got {ahead_layers}")
        self.grid = setting.grid
        self.spared: BoolArray = np.zeros(setting.grid.num_pages, dtype=np.bool_)
        """Whether each page should not be pushed out for what `likeliest` returned last, ``[num_page_ids]``."""
        self._reach_frac = reach_frac
        self._ahead_layers = ahead_layers
        self._carried: FloatArray = np.zeros(setting.grid.num_sequences)
        """Parts of pages expected so far that made no whole page."""
        self._capacity_pages = setting.capacity_pages
        self._was_read: BoolArray = np.zeros(setting.grid.num_pages, dtype=np.bool_)
        self._num_read: IntArray = np.zeros((setting.grid.num_layers, setting.grid.num_sequences), dtype=np.int64)
        self._firsts: IntArray = np.array([setting.grid.first_pages(layer) for layer in range(num_layers)])

    def layer(self, view: View) -> int:
        """Return the layer to prefetch for, and take down how many pages this one reads."""
        reads_of = np.searchsorted(view.selected, self._firsts[view.layer] + self.grid.pages_per_layer)
        self._num_read[view.layer] = reads_of - np.searchsorted(view.selected, self._firsts[view.layer])
        self.grid.of_layer(self._was_read, view.layer)[:] = False
        self._was_read[view.selected] = True
        return (view.layer + self._ahead_layers) % self.grid.num_layers

    def free_pages(self, view: View, layer: int) -> BoolArray:
        """Return the pages of `layer` that may or may not be read, ``[num_sequences, pages_per_layer]``."""
        free = self.grid.of_layer(view.prefetchable, layer) | self.grid.of_layer(view.evictable, layer)
        if layer == view.layer:
            free |= is_selected(view, self.grid)
        return free

    def num_expected(self, view: View, layer: int, free: BoolArray) -> IntArray:
        """Return how many of the `free` pages the last step read, ``[num_sequences]``."""
        last: IntArray = self._num_read[layer]
        # Before its first decision a layer is taken to read as many as the one before it.
        read: IntArray = np.where(last > 0, last, self._num_read[view.layer])
        always = np.count_nonzero(self.grid.of_layer(view.resident, layer) & ~free, axis=1)
        expected: IntArray = np.maximum(read - always, 0)
        return expected

    def likeliest(self, view: View, layer: int, ranks: FloatArray, *, above: float = -np.inf) -> PageIds:
        """Return the pages of `layer` that are likely to be read and are not there, most urgent first.

        Parameters
        ----------
        ranks
            The higher the likelier, ``[num_sequences, pages_per_layer]``; ties go to the smallest id.
        above
            Pages that rank no higher are not expected.
        """
        free = self.free_pages(view, layer)
        reach = np.minimum(self._reach_frac * self.num_expected(view, layer, free), self.grid.pages_per_layer)
        reach += self._carried
        counts = np.floor(reach + 1e-9)
        self._carried = reach - counts
        ranks = np.where(free, ranks, -np.inf)
        order = np.argsort(-ranks, axis=1, kind="stable")
        is_expected = np.arange(order.shape[1]) < counts[:, None]
        is_expected &= np.take_along_axis(ranks, order, axis=1) > above
        ids = self._firsts[layer][:, None] + order
        expected = ids.T[is_expected.T]  # the best of every sequence, then the next best of every one
        self._spare(layer, expected)
        missing: PageIds = expected[view.prefetchable[expected]]
        return missing

    def _spare(self, layer: int, expected: PageIds) -> None:
        fits = int(self._num_read.sum()) <= self._capacity_pages
        np.copyto(self.spared, self._was_read if fits else False)
        self.grid.of_layer(self.spared, layer)[:] = False
        self.spared[expected] = True


class LookaheadPrefetcher(DecisionPrefetcher):
    """A prefetcher that asks a `Lookahead`."""

    _lookahead: Lookahead

    def spared(self, view: View) -> BoolArray | None:
        """Spare what the coming layer is expected to read."""
        del view
        return self._lookahead.spared


def is_selected(view: View, grid: PageGrid) -> BoolArray:
    """Return the selection of the view's layer as a mask, ``[num_sequences, pages_per_layer]``."""
    mask: BoolArray = np.zeros((grid.num_sequences, grid.pages_per_layer), dtype=np.bool_)
    mask[grid.sequence_of(view.selected), grid.index_of(view.selected)] = True
    return mask


def log_scores(scores: Scores, grid: PageGrid) -> FloatArray:
    """Return logarithms of scores, ``[num_sequences, pages_per_layer]``; pages without one count as 0."""
    padded: FloatArray = np.full((grid.num_sequences, grid.pages_per_layer), SCORE_FLOOR)
    padded[:, : scores.shape[1]] += scores
    return np.log(padded)
