"""Simulated beside measured: counts first, then the error of every cell, and whether the grid could have failed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import ResultError
from kvsim.report.results import RunResult

COUNTED = ("selected", "hits", "misses", "prefetched", "used", "wasted", "evicted", "to_device_bytes", "to_host_bytes")
"""Counts that must be equal; `late` and stall depend on time and are compared with an error."""

PARTS = ("embed_s", "attention_input_s", "select_s", "host_s", "stall_s", "attention_s", "attention_output_s", "head_s")

STALLING_FRAC = 0.25
"""A cell stalls from this share of its time on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where counts first differ."""

    cell: int
    policy: str
    step: int
    column: str
    simulated: int
    measured: int

    def __str__(self) -> str:
        return (
            f"cell {self.cell} ({self.policy}), step {self.step}: {self.column} is {self.simulated} simulated, "
            f"{self.measured} measured"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The cells side by side, and the figures that say whether to believe the simulator."""

    cells: list[dict[str, Any]]
    figures: dict[str, Any]
    divergence: Divergence | None


def compare(simulated: RunResult, measured: RunResult) -> Comparison:
    """Compare a simulated result with a measured one of the same scenario, cell by cell.

    Errors are ``simulated / measured - 1`` of the mean time per output token over the counted steps, the measured one a
    median over repeats. What a cell *adds* is its time less that of the resident cell with the same swept values.

    Raises
    ------
    ResultError
        If the two are not of one scenario, or the second was not measured.
    """
    _check_pair(simulated, measured)
    divergence = first_divergence(simulated.rows, measured.rows)
    cells = [
        cell_of(number, sim, real, rows_of(simulated.rows, number), rows_of(measured.rows, number))
        for number, (sim, real) in enumerate(zip(simulated.summary["cells"], measured.summary["cells"], strict=True))
    ]
    add_resident(cells)
    return Comparison(cells=cells, figures=_figures(cells, divergence), divergence=divergence)


def first_divergence(simulated: Mapping[str, NDArray[Any]], measured: Mapping[str, NDArray[Any]]) -> Divergence | None:
    """Return where counts or decisions first differ, over all steps, warm-up included; None where they never do."""
    for number in np.unique(simulated["cell"]).tolist():
        left = rows_of(simulated, number)
        right = rows_of(measured, number)
        for step in range(left["step"].size):
            for column in ("digest", *COUNTED):
                if int(left[column][step]) != int(right[column][step]):
                    return Divergence(
                        cell=number,
                        policy=str(left["policy"][step]),
                        step=step,
                        column=column,
                        simulated=int(left[column][step]),
                        measured=int(right[column][step]),
                    )
    return None


def rows_of(rows: Mapping[str, NDArray[Any]], number: int) -> dict[str, NDArray[Any]]:
    """Return one row a step: of a simulated result its first repetition, of a measured one its instrumented run."""
    chosen = (rows["cell"] == number) & (rows["is_stamped"] if "is_stamped" in rows else rows["repetition"] == 0)
    return {name: column[chosen] for name, column in rows.items()}


def check_kinds(simulated: RunResult, measured: RunResult) -> None:
    """Refuse a pair that is not one simulated result and one measured.

    Raises
    ------
    ResultError
        Saying which of the two is wrong.
    """
    if not measured.summary.get("is_measured"):
        raise ResultError("the second result was simulated; give one that `kvsim measure` wrote")
    if simulated.summary.get("is_measured"):
        raise ResultError("the first result was measured; give one that `kvsim run` wrote")


def replays_measured(simulated: RunResult, measured: RunResult) -> bool | None:
    """Return whether a simulation replayed what a measurement recorded; None where one does not say."""
    replayed = simulated.manifest.get("accesses")
    files: Mapping[str, str] = measured.manifest.get("files", {})
    recorded = {digest for name, digest in files.items() if name.endswith(".kvtrace")}
    if not replayed or not recorded:
        return None
    return set(replayed.values()) <= recorded


def _check_pair(simulated: RunResult, measured: RunResult) -> None:
    check_kinds(simulated, measured)
    if simulated.summary["scenario_hash"] != measured.summary["scenario_hash"]:
        raise ResultError(
            f"the results are of different scenarios: {simulated.summary['scenario']} "
            f"({simulated.summary['scenario_hash']}) and {measured.summary['scenario']} "
            f"({measured.summary['scenario_hash']}); simulate again with the measured one's scenario and options"
        )
    if replays_measured(simulated, measured) is False:
        raise ResultError(
            f"the simulation replayed other accesses ({', '.join(simulated.manifest['accesses'])}) than were measured; "
            "simulate with --trace and the measured result, or compare with --out-of-sample"
        )


def cell_of(
    number: int,
    simulated: Mapping[str, Any],
    measured: Mapping[str, Any],
    sim_rows: Mapping[str, NDArray[Any]],
    real_rows: Mapping[str, NDArray[Any]],
) -> dict[str, Any]:
    """Return one cell's times side by side, with their errors and parts; `number` is the measured result's."""
    counted = ~sim_rows["is_warmup"]
    sim_s = float(simulated["tpot_mean_s"])
    repeats_s = sorted(measured["tpot_repeats_s"])
    real_s = float(np.median(repeats_s))
    low_s, high_s = simulated.get("tpot_interval_s") or (sim_s, sim_s)
    keys = ("policy", "budget_pages", "context_tokens", "batch", "page_tokens")
    cell: dict[str, Any] = {"cell": number} | {key: measured.get(key) for key in keys}
    cell |= {key: value for key, value in measured.items() if "." in key}
    cell |= {
        "tpot_simulated_s": sim_s,
        "tpot_simulated_low_s": low_s,
        "tpot_simulated_high_s": high_s,
        "tpot_measured_s": real_s,
        "tpot_measured_low_s": repeats_s[0],
        "tpot_measured_high_s": repeats_s[-1],
        "tpot_error_frac": sim_s / real_s - 1,
        "is_within_spread": bool(repeats_s[0] <= sim_s <= repeats_s[-1]),
        "is_in_interval": bool(low_s <= real_s <= high_s),
        "stall_simulated_frac": simulated["stall_frac"],
        "stall_measured_frac": measured["stall_frac"],
        "late_simulated": simulated["late"],
        "late_measured": measured["late"],
        "instrument_overhead_frac": measured["instrument_overhead_frac"],
        "mass_recall_frac": measured["mass_recall_frac"],
        "link_s": float(sim_rows["misses"][counted].mean()) * _page_s(simulated),
    }
    for part in PARTS:
        cell[f"{part[:-2]}_simulated_s"] = float(sim_rows[part][counted].mean())
        cell[f"{part[:-2]}_measured_s"] = float(real_rows[part][counted].mean())
    return cell


def _page_s(simulated: Mapping[str, Any]) -> float:
    return float(simulated.get("page_link_s") or np.nan)


def add_resident(cells: list[dict[str, Any]]) -> None:
    """Set beside each cell the resident one of its context, batch and page size, and what the null predictors say."""
    resident = {situation(cell): cell for cell in cells if cell["budget_pages"] is None}
    for cell in cells:
        base = resident.get(situation(cell))
        is_paged = base is not None and cell["budget_pages"] is not None
        real_s = cell["tpot_measured_s"]
        cell["added_simulated_s"] = cell["tpot_simulated_s"] - base["tpot_simulated_s"] if base and is_paged else None
        cell["added_measured_s"] = real_s - base["tpot_measured_s"] if base and is_paged else None
        added_s = cell["added_measured_s"]
        cell["added_error_frac"] = cell["added_simulated_s"] / added_s - 1 if added_s else None
        cell["null_resident_error_frac"] = base["tpot_measured_s"] / real_s - 1 if base and is_paged else None
        cell["null_link_error_frac"] = cell["link_s"] / real_s - 1 if is_paged else None
        cell["null_additive_error_frac"] = (
            (base["tpot_measured_s"] + cell["link_s"]) / real_s - 1 if base and is_paged else None
        )


def situation(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what cells have in common that read the same contexts."""
    return cell["context_tokens"], cell["batch"], cell["page_tokens"]


def _figures(cells: list[dict[str, Any]], divergence: Divergence | None) -> dict[str, Any]:
    errors = [abs(cell["tpot_error_frac"]) for cell in cells]
    worst = cells[int(np.argmax(errors))]
    paged = [cell for cell in cells if cell["budget_pages"] is not None]
    stalling = [cell for cell in paged if (cell["stall_measured_frac"] or 0) >= STALLING_FRAC]
    tau, pairs = kendall(
        [cell["tpot_simulated_s"] for cell in cells],
        [(cell["tpot_measured_low_s"], cell["tpot_measured_high_s"]) for cell in cells],
    )
    nulls = [median_abs(paged, f"null_{name}_error_frac") for name in ("resident", "link")]
    return {
        "counts_equal": divergence is None,
        "num_cells": len(cells),
        "tpot_median_error_frac": float(np.median(errors)),
        "tpot_worst_error_frac": float(max(errors)),
        "worst_cell": worst["cell"],
        "worst_within_spread": worst["is_within_spread"],
        "added_median_error_frac": median_abs(stalling, "added_error_frac"),
        "paged_median_error_frac": median_abs(paged, "tpot_error_frac"),
        "best_null_median_error_frac": min((null for null in nulls if null is not None), default=None),
        "additive_null_median_error_frac": median_abs(paged, "null_additive_error_frac"),
        "stall_cells_frac": len(stalling) / len(cells),
        "slowest_over_fastest": _slowest_over_fastest(cells),
        "kendall_tau": tau,
        "kendall_pairs": pairs,
        "interval_coverage_frac": float(np.mean([cell["is_in_interval"] for cell in cells])),
    }


def _slowest_over_fastest(cells: list[dict[str, Any]]) -> float | None:
    """Return the largest ratio of slowest to fastest among cells of one context that read the same pages."""
    ratios = []
    for cell in cells:
        if cell["mass_recall_frac"] == 1.0:
            continue
        alike = [
            other["tpot_measured_s"]
            for other in cells
            if situation(other) == situation(cell) and other["mass_recall_frac"] == cell["mass_recall_frac"]
        ]
        ratios.append(max(alike) / min(alike))
    return max(ratios, default=None)


def median_abs(cells: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the median size of one field over the cells that have it; None where none does."""
    values = [abs(cell[name]) for cell in cells if cell[name] is not None and np.isfinite(cell[name])]
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
