"""Which pages attention reads: pure functions from scores to page indices; the engine's torch twin chooses alike.

A selection holds the sinks, the recent window and the open page always, and the best of the rest by score. Ties go
to the smallest index, so that a recorded score, already rounded, selects the same pages live and in replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kvsim.types import FloatArray, IntArray, Scores


class Selector(Protocol):
    """Chooses pages of one layer of one sequence."""

    def select(self, scores: Scores, num_pages: int) -> IntArray:
        """Return the indices of the pages to read, ascending; `scores` has at least `num_pages` entries."""

    def max_pages(self, num_pages: int) -> int:
        """Return the most pages it can choose of `num_pages`: what a budget must be able to hold."""


@dataclass(frozen=True, slots=True)
class Full:
    """Attention reads every page."""

    def select(self, scores: Scores, num_pages: int) -> IntArray:
        """Return every page."""
        del scores
        return np.arange(num_pages, dtype=np.int64)

    def max_pages(self, num_pages: int) -> int:
        """Return all of them."""
        return num_pages


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The `k_pages` best pages by score, besides the first `sink_pages`, the last `recent_pages` and the open one.

    After Quest (arXiv 2406.10774) and ArkVale (NeurIPS 2024); all heads of a layer choose together.

    Examples
    --------
    >>> TopK(k_pages=1, sink_pages=1, recent_pages=0).select(np.array([0.1, 0.2, 0.6, 0.1]), 4)
    array([0, 2, 3])
    """

    k_pages: int
    sink_pages: int
    recent_pages: int

    def select(self, scores: Scores, num_pages: int) -> IntArray:
        """Return the fixed pages and the `k_pages` best of the others."""
        first, last = middle_of(num_pages, self.sink_pages, self.recent_pages)
        best = first + _best_first(scores[first:last])[: self.k_pages]
        return _with_fixed(best, first, last, num_pages)

    def max_pages(self, num_pages: int) -> int:
        """Return the size of every selection from `num_pages` pages."""
        return min(num_pages, self.k_pages + self.sink_pages + self.recent_pages + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """The fewest pages whose scores, with the fixed ones, reach `threshold` of the sum of all scores.

    After Twilight's top-p (arXiv 2502.02770), by page and for all heads of a layer together; `max_k_pages` bounds it.
    """

    threshold: float
    max_k_pages: int
    sink_pages: int
    recent_pages: int

    def select(self, scores: Scores, num_pages: int) -> IntArray:
        """Return the fixed pages and the best of the others up to the threshold."""
        first, last = middle_of(num_pages, self.sink_pages, self.recent_pages)
        row: FloatArray = scores[:num_pages].astype(np.float64)
        order = _best_first(row[first:last])[: self.max_k_pages]
        fixed = row[:first].sum() + row[last:].sum()
        reached = fixed + np.concatenate(([0.0], np.cumsum(row[first:last][order])))
        count = int(np.searchsorted(reached, self.threshold * row.sum() * (1 - 1e-12)))
        return _with_fixed(first + order[: min(count, order.size)], first, last, num_pages)

    def max_pages(self, num_pages: int) -> int:
        """Return the bound that `max_k_pages` sets."""
        return min(num_pages, self.max_k_pages + self.sink_pages + self.recent_pages + 1)


def middle_of(num_pages: int, sink_pages: int, recent_pages: int) -> tuple[int, int]:
    """Return the half-open range of pages that are neither sink, recent nor open; empty ranges stay in order.

    Examples
    --------
    >>> middle_of(10, 1, 2)
    (1, 7)
    """
    first = min(sink_pages, num_pages)
    return first, max(first, num_pages - 1 - recent_pages)


def _best_first(scores: Scores) -> IntArray:
    """Return the places of scores from the best on; of equal ones the first comes first."""
    if scores.dtype == np.float16 and not np.signbit(scores).any():  # the bits of such numbers are in their order
        bits: NDArray[np.uint16] = np.ascontiguousarray(scores).view(np.uint16)
        return np.argsort(~bits, kind="stable")
    return np.argsort(-scores.astype(np.float64), kind="stable")


def _with_fixed(best: IntArray, first: int, last: int, num_pages: int) -> IntArray:
    chosen = np.concatenate((np.arange(first), np.sort(best), np.arange(last, num_pages)))
    return chosen.astype(np.int64)
