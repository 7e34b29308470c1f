"""Simulated on other accesses than were measured: errors of counts and of times, where neither can be equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvsim.errors import ResultError
from kvsim.experiments.decode.report.compare import (
    STALLING_FRAC,
    add_resident,
    cell_of,
    check_kinds,
    kendall,
    median_abs,
    replays_measured,
    rows_of,
)
from kvsim.report.results import RunResult

_KEYS = ("policy", "budget_pages", "context_tokens", "batch", "page_tokens", "selector")
"""What a simulated and a measured cell must share, besides the swept fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfSample:
    """The cells side by side, and how far counts and times are off."""

    cells: list[dict[str, Any]]
    figures: dict[str, Any]
    accesses: tuple[str, ...]
    """Names of the traces that were replayed."""
    texts: tuple[str, ...]
    """What was read when they were recorded."""


def compare_out_of_sample(simulated: RunResult, measured: RunResult) -> OutOfSample:
    """Compare a result simulated on other accesses (of another text, of dense attention) with a measured one.

    Counts have an error and are never called equal. Errors are ``simulated / measured - 1``, those of hits
    ``simulated - measured`` in points of a percent. The medians of counts are over the cells whose counts depend on the
    accesses: a policy that selects, with a budget. Each simulated cell is held against the measured one of its policy,
    budget, context, batch, page size, selector and swept values; the measured result may have more cells. The time per
    token of those that select has a median of its own: what reads everything is as right out of sample as in it.

    Raises
    ------
    ResultError
        If a simulated cell was not measured, or the accesses are the measured ones.
    """
    check_kinds(simulated, measured)
    if replays_measured(simulated, measured):
        raise ResultError(
            "the simulation replayed what was measured, so it is in sample: compare without --out-of-sample, or "
            "simulate with --trace and accesses of another text"
        )
    swept = tuple(str(key) for key in measured.summary.get("swept", ()))
    places = {_key(cell, swept): number for number, cell in enumerate(measured.summary["cells"])}
    cells = []
    for number, sim in enumerate(simulated.summary["cells"]):
        place = places.get(_key(sim, swept))
        if place is None:
            raise ResultError(f"no such cell was measured: {_told(sim, swept)}; simulate what the measured result has")
        real = measured.summary["cells"][place]
        cell = cell_of(place, sim, real, rows_of(simulated.rows, number), rows_of(measured.rows, place))
        cells.append(cell | _counts(sim, real))
    add_resident(cells)
    return OutOfSample(
        cells=cells,
        figures=_figures(cells),
        accesses=tuple(sorted(simulated.manifest.get("accesses", ()))),
        texts=tuple(simulated.manifest.get("texts", ())),
    )


def _key(cell: Mapping[str, Any], swept: Sequence[str]) -> tuple[Any, ...]:
    return tuple(cell.get(name) for name in (*_KEYS, *swept))


def _told(cell: Mapping[str, Any], swept: Sequence[str]) -> str:
    return ", ".join(f"{name} = {cell.get(name)}" for name in (*_KEYS, *swept))


def _counts(simulated: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of one cell side by side with their errors; None where there is nothing to err about."""
    hits = simulated["hit_frac"], measured["hit_frac"]
    has_hits = hits[0] is not None and hits[1] is not None
    found: dict[str, Any] = {
        "is_selecting": measured["selector"] != "full" and measured["budget_pages"] is not None,
        "hit_simulated_frac": hits[0],
        "hit_measured_frac": hits[1],
        "hit_error_points": 100 * (hits[0] - hits[1]) if has_hits else None,
    }
    for name, field in (("misses", "misses"), ("moved_bytes_per_token", "moved_bytes_per_token")):
        sim, real = simulated[field], measured[field]
        stem = name.removesuffix("_bytes_per_token")
        found |= {
            f"{name}_simulated": sim,
            f"{name}_measured": real,
            f"{stem}_error_frac": sim / real - 1 if real else None,
        }
    return found


def _figures(cells: list[dict[str, Any]]) -> dict[str, Any]:
    selecting = [cell for cell in cells if cell["is_selecting"]]
    paged = [cell for cell in cells if cell["budget_pages"] is not None]
    stalling = [cell for cell in paged if (cell["stall_measured_frac"] or 0) >= STALLING_FRAC]
    errors = [abs(cell["tpot_error_frac"]) for cell in cells]
    hit_errors = [abs(cell["hit_error_points"]) for cell in selecting if cell["hit_error_points"] is not None]
    tau, pairs = kendall(
        [cell["tpot_simulated_s"] for cell in cells],
        [(cell["tpot_measured_low_s"], cell["tpot_measured_high_s"]) for cell in cells],
    )
    found = {
        "num_cells": len(cells),
        "tpot_median_error_frac": float(np.median(errors)),
        "tpot_worst_error_frac": max(errors),
        "worst_cell": cells[int(np.argmax(errors))]["cell"],
        "selecting_median_error_frac": median_abs(selecting, "tpot_error_frac"),
        "added_median_error_frac": median_abs(stalling, "added_error_frac"),
        "hit_error_points": float(np.median(hit_errors)) if hit_errors else None,
        "hit_worst_error_points": max(hit_errors, default=None),
        "misses_median_error_frac": median_abs(selecting, "misses_error_frac"),
        "moved_median_error_frac": median_abs(selecting, "moved_error_frac"),
        "kendall_tau": tau,
        "kendall_pairs": pairs,
        "interval_coverage_frac": float(np.mean([cell["is_in_interval"] for cell in cells])),
    }
    return {f"out_of_sample_{name}": value for name, value in found.items()}
