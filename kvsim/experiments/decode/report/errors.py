"""The errors of a comparison's cells, summed up: times, null predictors, counts, and the order of the cells."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvsim.experiments.decode.entry import ComparedCell, value_of

STALLING_FRAC = 0.25
"""A cell stalls from this share of its time on."""


def values_of(cell: Mapping[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    """Return fields of a cell, None of one that it lacks."""
    return tuple(cell.get(name) for name in keys)


def situation(cell: ComparedCell) -> tuple[Any, ...]:
    """Return what cells have in common that read the same contexts."""
    return values_of(cell, ("context_tokens", "batch", "page_tokens"))


def time_errors(cells: Sequence[ComparedCell]) -> dict[str, Any]:
    """Return the errors of times, in sample and out of it."""
    errors = [abs(cell["tpot_error_frac"]) for cell in cells]
    tau, pairs = kendall(
        [cell["tpot_simulated_s"] for cell in cells],
        [(cell["tpot_measured_low_s"], cell["tpot_measured_high_s"]) for cell in cells],
    )
    return {
        "num_cells": len(cells),
        "tpot_median_error_frac": float(np.median(errors)),
        "tpot_worst_error_frac": float(max(errors)),
        "worst_cell": cells[int(np.argmax(errors))]["cell"],
        "added_median_error_frac": median_abs(_stalling(cells), "added_error_frac"),
        "kendall_tau": tau,
        "kendall_pairs": pairs,
        "interval_coverage_frac": float(np.mean([cell["is_in_interval"] for cell in cells])),
    }


def null_errors(cells: Sequence[ComparedCell]) -> dict[str, Any]:
    """Return the errors of predictors that know nothing of caches, and whether the grid could have failed."""
    paged = [cell for cell in cells if cell["budget_pages"] is not None]
    nulls = [median_abs(paged, f"null_{name}_error_frac") for name in ("resident", "link")]
    return {
        "worst_within_spread": max(cells, key=lambda cell: abs(cell["tpot_error_frac"]))["is_within_spread"],
        "paged_median_error_frac": median_abs(paged, "tpot_error_frac"),
        "best_null_median_error_frac": min((null for null in nulls if null is not None), default=None),
        "additive_null_median_error_frac": median_abs(paged, "null_additive_error_frac"),
        "stall_cells_frac": len(_stalling(cells)) / len(cells),
        "slowest_over_fastest": _slowest_over_fastest(cells),
    }


def count_errors(cells: Sequence[ComparedCell]) -> dict[str, Any]:
    """Return the errors of counts in the cells that select."""
    selecting = [cell for cell in cells if cell["is_selecting"]]
    hit_errors = [abs(points) for cell in selecting if (points := cell["hit_error_points"]) is not None]
    return {
        "selecting_median_error_frac": median_abs(selecting, "tpot_error_frac"),
        "hit_error_points": float(np.median(hit_errors)) if hit_errors else None,
        "hit_worst_error_points": max(hit_errors, default=None),
        "misses_median_error_frac": median_abs(selecting, "misses_error_frac"),
        "moved_median_error_frac": median_abs(selecting, "moved_bytes_per_token_error_frac"),
    }


def _stalling(cells: Sequence[ComparedCell]) -> list[ComparedCell]:
    return [
        cell
        for cell in cells
        if cell["budget_pages"] is not None and (cell["stall_measured_frac"] or 0) >= STALLING_FRAC
    ]


def _slowest_over_fastest(cells: Sequence[ComparedCell]) -> float | None:
    """Return the largest ratio of slowest to fastest among cells of one context that read the same pages."""
    alike: dict[tuple[Any, ...], list[float]] = {}
    for cell in cells:
        if cell["mass_recall_frac"] != 1.0:
            alike.setdefault((situation(cell), cell["mass_recall_frac"]), []).append(cell["tpot_measured_s"])
    return max((max(times_s) / min(times_s) for times_s in alike.values()), default=None)


def median_abs(cells: Sequence[ComparedCell], name: str) -> float | None:
    """Return the median size of one field over the cells that have it; None where none does."""
    values = [abs(value) for cell in cells if (value := value_of(cell, name)) is not None and np.isfinite(value)]
    return float(np.median(values)) if values else None


def kendall(simulated_s: Sequence[float], measured_s: Sequence[tuple[float, float]]) -> tuple[float | None, int]:
    """Return Kendall's tau over the pairs whose measured intervals are disjoint, and how many there are.

    Examples
    --------
    >>> kendall([1.0, 2.0, 3.0], [(1.0, 1.1), (1.9, 2.1), (1.0, 1.05)])
    (0.0, 2)
    """
    agreements = []
    for (left_sim, left), (right_sim, right) in itertools.combinations(zip(simulated_s, measured_s, strict=True), 2):
        if left[1] < right[0] or right[1] < left[0]:
            agreements.append(float(np.sign((left_sim - right_sim) * (left[0] - right[0]))))
    return (float(np.mean(agreements)) if agreements else None), len(agreements)
