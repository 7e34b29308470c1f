"""Samples to tables: medians on a grid that never fall as the amount grows, and how far samples lie from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from kvsim.errors import CalibrationError
from kvsim.profile.tables import Amount, Column, CostTable
from kvsim.types import FloatArray

Sample: TypeAlias = tuple[float, float, float]
"""(amount, column, seconds); see `CostTable`."""

_Places: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Row and column of the grid of each sample."""

MAX_SAMPLES_A_POINT = 10
"""Raw samples kept for each point of the grid, evenly by rank: a profile is a file to be read and mailed."""

_SIGMAS_P20_TO_P80 = 1.6832  # of a normal distribution
_MEDIAN_TO_MEAN_ERROR = 1.2533  # standard error of a median over that of a mean, sqrt(pi / 2)


def fit_table(samples: Sequence[Sample], amount: Amount, columns_are: Column = "none") -> CostTable:
    """Return the table through the medians of `samples`, which are taken on a grid of amounts and columns.

    Along the amounts the medians are replaced by the nearest values that never fall (isotonic regression, weighted by
    the number of samples): more work never costs less. A point of the grid without samples takes its time from its
    neighbours along the amounts.

    Raises
    ------
    CalibrationError
        If there is no sample, or a column has none at all.

    Examples
    --------
    >>> table = fit_table([(1, 1, 2e-6), (1, 1, 4e-6), (9, 1, 1e-5)], "pages")
    >>> [round(row[0] * 1e6, 6) for row in table.time_s], table.num_samples
    ([3.0, 10.0], 3)
    """
    if not samples:
        raise CalibrationError("no samples to fit a cost to; measure for longer")
    rows: FloatArray = np.array(samples, dtype=np.float64)
    amounts, columns = np.unique(rows[:, 0]), np.unique(rows[:, 1])
    medians, counts = _medians(rows, amounts, columns)
    fitted = np.empty_like(medians)
    for column in range(columns.size):
        fitted[:, column] = _rising(amounts, medians[:, column], counts[:, column])
    places = np.searchsorted(amounts, rows[:, 0]), np.searchsorted(columns, rows[:, 1])
    at_samples = fitted[places]
    residuals = np.divide(rows[:, 2], at_samples, out=np.ones(len(rows)), where=at_samples > 0) - 1
    low, high = np.quantile(residuals, (0.05, 0.95))
    return CostTable(
        amount=amount,
        amounts=tuple(amounts.tolist()),
        columns_are=columns_are,
        columns=tuple(columns.tolist()),
        time_s=tuple(tuple(row) for row in fitted.tolist()),
        residual_low_frac=float(low),
        residual_high_frac=float(high),
        median_error_frac=_median_error_frac(rows, medians, places),
        num_samples=len(samples),
        samples=tuple(tuple(row) for row in _thinned(rows, places).tolist()),
    )


def slowdown_frac(slow_s: Sequence[float], usual_s: Sequence[float]) -> float:
    """Return how much longer `slow_s` is than `usual_s`, pair by pair, in the median; 0 where it is shorter.

    Pairs were measured one after the other, so that a machine that drifts slows both.

    Examples
    --------
    >>> round(slowdown_frac([1.1, 2.4, 1.3], [1.0, 2.0, 1.0]), 3)
    0.2
    """
    return max(0.0, float(np.median(np.array(slow_s) / np.array(usual_s)) - 1))


def cost_per_event_s(total_s: Sequence[float], num_events: Sequence[float], base_s: float) -> float:
    """Return the median over runs of what one event adds to `base_s`; runs without an event are left out.

    Examples
    --------
    >>> cost_per_event_s([1.0, 5.0, 7.0], [0, 2, 3], base_s=1.0)
    2.0
    """
    added = [(time_s - base_s) / count for time_s, count in zip(total_s, num_events, strict=True) if count]
    return max(0.0, float(np.median(added))) if added else 0.0


def _medians(rows: FloatArray, amounts: FloatArray, columns: FloatArray) -> tuple[FloatArray, FloatArray]:
    medians = np.full((amounts.size, columns.size), np.nan)
    counts = np.zeros_like(medians)
    for row, amount in enumerate(amounts):
        for place, column in enumerate(columns):
            times_s = rows[(rows[:, 0] == amount) & (rows[:, 1] == column), 2]
            if times_s.size:
                medians[row, place], counts[row, place] = np.median(times_s), times_s.size
    return medians, counts


def _rising(amounts: FloatArray, medians: FloatArray, counts: FloatArray) -> FloatArray:
    is_known = counts > 0
    rising = isotonic_regression(medians[is_known], weights=counts[is_known]).x
    filled: FloatArray = np.interp(amounts, amounts[is_known], rising)
    return filled


def _points(rows: FloatArray, places: _Places) -> Iterator[tuple[tuple[int, int], FloatArray]]:
    """Yield each point of the grid that has samples, in order, with their rows."""
    for row, column in sorted(set(zip(places[0].tolist(), places[1].tolist(), strict=True))):
        yield (row, column), rows[(places[0] == row) & (places[1] == column)]


def _median_error_frac(rows: FloatArray, medians: FloatArray, places: _Places) -> float:
    """Return the standard error of a median over the median, the mean over the points with two samples or more."""
    errors = []
    for (row, column), point in _points(rows, places):
        times_s = point[:, 2]
        if times_s.size > 1:
            low_s, high_s = np.quantile(times_s, (0.2, 0.8))
            sigma_s = (high_s - low_s) / _SIGMAS_P20_TO_P80
            errors.append(_MEDIAN_TO_MEAN_ERROR * sigma_s / np.sqrt(times_s.size) / max(medians[row, column], 1e-12))
    return float(np.mean(errors)) if errors else 0.0


def _thinned(rows: FloatArray, places: _Places) -> FloatArray:
    """Return at most `MAX_SAMPLES_A_POINT` rows of each point, from the least time to the most."""
    points = []
    for _, point in _points(rows, places):
        point = point[np.argsort(point[:, 2])]
        chosen = np.linspace(0, len(point) - 1, min(len(point), MAX_SAMPLES_A_POINT)).round().astype(np.intp)
        points.append(point[chosen])
    thinned: FloatArray = np.concatenate(points)
    return thinned
