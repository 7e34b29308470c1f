"""What ranks say of a normal field: recall of the best 8 pages by correlation, their share of the weight by spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from kvsim.traces.access.statistics import RECALL_PAGES
from kvsim.types import BoolArray, FloatArray

_ROWS = 384
"""Fields drawn; one set for every point of a curve, so that the curves are smooth."""
_SEED = 1_234_567
MAX_SPREAD_NATS = 12.0
MAX_ANGLE = np.pi / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RankCurves:
    """Two curves over a field of `num_pages` independent normal pages, and their inverses.

    A correlation is handled as an angle, its arc cosine, in which recall is close to linear.
    """

    angles: FloatArray
    recall_frac: FloatArray
    """Share of the best 8 in common between two fields at each angle; falls."""
    spreads_nats: FloatArray
    top_frac: FloatArray
    """Share of the sum of exponentials in the best 8 at each spread; rises."""

    def angle_of(self, recall_frac: FloatArray) -> FloatArray:
        """Return the arc cosine of the correlation at which recall is `recall_frac`; nan stays nan."""
        angle: FloatArray = np.interp(-recall_frac, -self.recall_frac, self.angles)
        return angle

    def spread_of(self, top_frac: FloatArray) -> FloatArray:
        """Return the spread at which the best 8 hold `top_frac`; nan stays nan."""
        spread: FloatArray = np.interp(top_frac, self.top_frac, self.spreads_nats)
        return spread


def rank_curves(num_pages: int) -> RankCurves:
    """Return the curves for `num_pages` pages, more than 8, by simulation with fixed draws."""
    rng = np.random.default_rng(_SEED)
    here, other = rng.standard_normal((2, _ROWS, num_pages), dtype=np.float32)
    best = _is_best(here)
    angles = np.linspace(0, np.pi / 2, 33)
    recall = [(best & _is_best(np.cos(angle) * here + np.sin(angle) * other)).sum() for angle in angles]
    ordered = np.sort(here.astype(np.float64), axis=1)
    ordered -= ordered[:, -1:]
    spreads = np.linspace(0, MAX_SPREAD_NATS, 97)
    weights = [np.exp(spread * ordered) for spread in spreads]
    top = [(row[:, -RECALL_PAGES:].sum(axis=1) / row.sum(axis=1)).mean() for row in weights]
    steps = np.arange(len(angles)) * 1e-9  # strictly monotone, as an inverse needs
    return RankCurves(
        angles=angles,
        recall_frac=np.minimum.accumulate(np.array(recall) / (_ROWS * RECALL_PAGES)) - steps,
        spreads_nats=spreads,
        top_frac=np.maximum.accumulate(np.array(top)) + np.arange(len(spreads)) * 1e-9,
    )


def normal_scores(num_pages: int) -> FloatArray:
    """Return what the largest, second largest, ... of so many independent normal numbers are near (Blom's scores)."""
    scores: FloatArray = -ndtri((np.arange(1, num_pages + 1) - 0.375) / (num_pages + 0.25))
    return scores


def _is_best(field: NDArray[np.float32]) -> BoolArray:
    best = np.argpartition(-field, RECALL_PAGES - 1, axis=1)[:, :RECALL_PAGES]
    marked = np.zeros(field.shape, dtype=np.bool_)
    np.put_along_axis(marked, best, True, axis=1)
    return marked
