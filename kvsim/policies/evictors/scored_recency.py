"""Scored recency: the page whose readings of late carried the least attention leaves."""

from __future__ import annotations

import numpy as np

from kvsim.policies.base import Setting, View, scores_of
from kvsim.policies.evictors.pools import Pools
from kvsim.types import BoolArray, FloatArray, PageIds


class ScoredRecency:
    """Evict the page with the least decayed sum of scores; a score counts in the decisions that read the page.

    At each decision of its layer a page's sum shrinks to `score_decay_frac` of itself, and grows by the page's score if
    it is read. It begins at 0 when a page comes. After InfLLM (arXiv 2402.04617) with the default decay of its code;
    differs: once a decode step instead of once a chunk, and with the selector's score of a page, which is the true
    attention mass only where the selector's channel is ``mass``. `touch` is O(pages of the layer), `victims` O(pages of
    the grid).

    Parameters
    ----------
    score_decay_frac
        What is left of a sum after one decision of its layer.
    """

    def __init__(self, setting: Setting, *, score_decay_frac: float = 0.1) -> None:
        if not 0 <= score_decay_frac < 1:
            raise ValueError(f"score_decay_frac must be in [0, 1), got {score_decay_frac}")
        self._grid = setting.grid
        self._pools = Pools(setting)
        self._score_decay_frac = score_decay_frac
        self._sums: FloatArray = np.zeros(setting.grid.num_pages)

    def arrived(self, pages: PageIds) -> None:
        """Begin the sums at 0."""
        self._sums[pages] = 0.0

    def touch(self, view: View) -> None:
        """Let the layer's sums decay, and add the scores of what is read."""
        grid = self._grid
        of_layer = grid.of_layer(self._sums, view.layer)
        of_layer *= self._score_decay_frac
        self._sums[view.misses] = 0.0
        self._sums[view.selected] += scores_of(view.selected, view, grid).astype(np.float64)

    def victims(self, view: View, pool: int, count: int, spared: BoolArray | None) -> PageIds:
        """Return the pages with the least sums."""
        pages = self._pools.candidates(view.evictable, pool, spared)
        return pages[np.argsort(self._sums[pages], kind="stable")[:count]]

    def left(self, pages: PageIds) -> None:
        """Nothing to forget: a sum begins anew when a page comes."""
