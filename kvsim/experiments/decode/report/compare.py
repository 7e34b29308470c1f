"""Decode simulated beside measured: counts first, then the error of every cell, and whether the grid could have failed.

In sample the simulation replays what was measured, and counts must be equal. Out of sample it replays other accesses
(another text, dense attention), and counts have an error as times have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import ResultError
from kvsim.experiments.decode.entry import ComparedCell, Entry, MeasuredEntry, value_of
from kvsim.experiments.decode.report.errors import count_errors, null_errors, situation, time_errors, values_of
from kvsim.experiments.decode.report.summary import COUNTED
from kvsim.report.comparison import check_pair, check_sides, side_by_side
from kvsim.report.results import RunResult
from kvsim.types import Rows

PARTS = ("embed_s", "attention_input_s", "select_s", "host_s", "stall_s", "attention_s", "attention_output_s", "head_s")

_KEYS = ("policy", "budget_pages", "context_tokens", "batch", "page_tokens")
OUTSIDE = "out_of_sample_"
"""How the figures of a comparison out of sample begin."""


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

    cells: list[ComparedCell]
    figures: dict[str, Any]
    divergence: Divergence | None = None
    accesses: tuple[str, ...] = ()
    """Out of sample: names of the traces that were replayed."""
    texts: tuple[str, ...] = ()
    """Out of sample: what was read when they were recorded."""


def compare(simulated: RunResult, measured: RunResult) -> Comparison:
    """Compare a simulated result with a measured one of the same scenario, cell by cell.

    Errors are ``simulated / measured - 1`` of the mean time per output token over the counted steps, the measured one a
    median over repeats. What a cell *adds* is its time less that of the resident cell with the same swept values.

    Raises
    ------
    ResultError
        If the two are not of one scenario, or the second was not measured.
    """
    check_pair(simulated, measured)
    if replays_measured(simulated, measured) is False:
        raise ResultError(
            f"the simulation replayed other accesses ({', '.join(simulated.manifest['accesses'])}) than were measured; "
            "simulate with --trace and the measured result, or compare with --out-of-sample"
        )
    divergence = first_divergence(simulated.rows, measured.rows)
    cells = [_cell(simulated, measured, number, number) for number in range(len(simulated.summary["cells"]))]
    _add_resident(cells)
    return Comparison(
        cells=cells,
        figures={"counts_equal": divergence is None} | time_errors(cells) | null_errors(cells),
        divergence=divergence,
    )


def compare_out_of_sample(simulated: RunResult, measured: RunResult) -> Comparison:
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
    check_sides(simulated, measured)
    if replays_measured(simulated, measured):
        raise ResultError(
            "the simulation replayed what was measured, so it is in sample: compare without --out-of-sample, or "
            "simulate with --trace and accesses of another text"
        )
    keys = (*_KEYS, "selector", *measured.summary.get("swept", ()))
    places = {values_of(cell, keys): number for number, cell in enumerate(measured.summary["cells"])}
    cells = []
    for number, sim in enumerate(simulated.summary["cells"]):
        place = places.get(values_of(sim, keys))
        if place is None:
            where = ", ".join(f"{name} = {sim.get(name)}" for name in keys)
            raise ResultError(f"no such cell was measured: {where}; simulate what the measured result has")
        real = measured.summary["cells"][place]
        cells.append(cast("ComparedCell", {**_cell(simulated, measured, number, place), **_counts(sim, real)}))
    _add_resident(cells)
    errors = time_errors(cells) | count_errors(cells)
    return Comparison(
        cells=cells,
        figures={f"{OUTSIDE}{name}": value for name, value in errors.items()},
        accesses=tuple(sorted(simulated.manifest.get("accesses", ()))),
        texts=tuple(simulated.manifest.get("texts", ())),
    )


def first_divergence(simulated: Rows, measured: Rows) -> Divergence | None:
    """Return where counts or decisions first differ, over all steps, warm-up included; None where they never do."""
    for number in np.unique(simulated["cell"]).tolist():
        left, right = _rows_of(simulated, number), _rows_of(measured, number)
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


def replays_measured(simulated: RunResult, measured: RunResult) -> bool | None:
    """Return whether a simulation replayed what a measurement recorded; None where one does not say."""
    replayed = simulated.manifest.get("accesses")
    files: Mapping[str, str] = measured.manifest.get("files", {})
    recorded = {digest for name, digest in files.items() if name.endswith(".kvtrace")}
    if not replayed or not recorded:
        return None
    return set(replayed.values()) <= recorded


def _rows_of(rows: Rows, number: int) -> dict[str, NDArray[Any]]:
    """Return one row a step: of a simulated result its first repetition, of a measured one its instrumented run."""
    chosen = (rows["cell"] == number) & (rows["is_stamped"] if "is_stamped" in rows else rows["repetition"] == 0)
    return {name: column[chosen] for name, column in rows.items()}


def _cell(simulated: RunResult, measured: RunResult, number: int, place: int) -> ComparedCell:
    """Return one cell's times side by side, with their errors and parts; `place` is its number in the measured one."""
    sim: Entry = simulated.summary["cells"][number]
    real: MeasuredEntry = measured.summary["cells"][place]
    sim_rows, real_rows = _rows_of(simulated.rows, number), _rows_of(measured.rows, place)
    counted = ~sim_rows["is_warmup"]
    sim_s = sim["tpot_mean_s"]
    repeats_s = sorted(real["tpot_repeats_s"])
    real_s = float(np.median(repeats_s))
    low_s, high_s = sim.get("tpot_interval_s") or (sim_s, sim_s)
    cell: dict[str, Any] = {"cell": place} | {key: real.get(key) for key in _KEYS}
    cell |= {key: value for key, value in real.items() if "." in key} | side_by_side("tpot_s", sim_s, real_s)
    cell |= {
        "tpot_simulated_low_s": low_s,
        "tpot_simulated_high_s": high_s,
        "tpot_measured_low_s": repeats_s[0],
        "tpot_measured_high_s": repeats_s[-1],
        "is_within_spread": bool(repeats_s[0] <= sim_s <= repeats_s[-1]),
        "is_in_interval": bool(low_s <= real_s <= high_s),
        "stall_simulated_frac": sim["stall_frac"],
        "stall_measured_frac": real["stall_frac"],
        "late_simulated": sim["late"],
        "late_measured": real["late"],
        "instrument_overhead_frac": real["instrument_overhead_frac"],
        "mass_recall_frac": real["mass_recall_frac"],
        "link_s": float(sim_rows["misses"][counted].mean()) * float(sim.get("page_link_s") or np.nan),
    }
    for part in PARTS:
        cell[f"{part[:-2]}_simulated_s"] = float(sim_rows[part][counted].mean())
        cell[f"{part[:-2]}_measured_s"] = float(real_rows[part][counted].mean())
    return cast("ComparedCell", cell)  # no type knows the swept names; `_add_resident` adds the last ones


def _counts(simulated: Entry, measured: Entry) -> dict[str, Any]:
    """Return the counts of one cell side by side with their errors; None where there is nothing to err about."""
    hits = simulated["hit_frac"], measured["hit_frac"]
    row = {
        "is_selecting": measured["selector"] != "full" and measured["budget_pages"] is not None,
        "hit_error_points": 100 * (hits[0] - hits[1]) if hits[0] is not None and hits[1] is not None else None,
    }
    for name in ("hit_frac", "misses", "moved_bytes_per_token"):
        row |= side_by_side(name, value_of(simulated, name), value_of(measured, name))
    return row


def _add_resident(cells: list[ComparedCell]) -> None:
    """Add to each cell what it adds to the resident one of its situation, and what the null predictors say."""
    resident = {situation(cell): cell for cell in cells if cell["budget_pages"] is None}
    for cell in cells:
        base = resident.get(situation(cell)) if cell["budget_pages"] is not None else None
        real_s, link_s = cell["tpot_measured_s"], cell["link_s"]
        base_s = None if base is None else base["tpot_measured_s"]
        added_s = None if base is None else cell["tpot_simulated_s"] - base["tpot_simulated_s"]
        added_real_s = None if base_s is None else real_s - base_s
        cell["added_simulated_s"], cell["added_measured_s"] = added_s, added_real_s
        cell["added_error_frac"] = added_s / added_real_s - 1 if added_s is not None and added_real_s else None
        cell["null_resident_error_frac"] = None if base_s is None else base_s / real_s - 1
        cell["null_link_error_frac"] = None if base_s is None else link_s / real_s - 1
        cell["null_additive_error_frac"] = None if base_s is None else (base_s + link_s) / real_s - 1
