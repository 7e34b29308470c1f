"""Simulated serving compared with measured serving: schedules first, then times with their targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kvsim.experiments.serving.report.compare import compare_text
from kvsim.experiments.serving.report.tables import COLUMNS, text_of
from kvsim.experiments.serving.run import FIGURES
from kvsim.report.comparison import Compared, Comparison, Fields, compared
from kvsim.report.diagonal import Panel, diagonal_figure
from kvsim.report.results import RunResult
from kvsim.report.tables import Column

TARGETS = {
    "ttft_mean_s": 0.05,
    "ttft_p50_s": 0.05,
    "ttft_p99_s": 0.12,
    "itl_p50_s": 0.04,
    "tpot_p50_s": 0.04,
    "e2e_p50_s": 0.04,
    "output_tokens_per_s": 0.03,
}
"""How far off each figure may be."""

OR_IN_SPREAD = ("ttft_p99_s",)
"""Figures for which it is enough to lie between the runs of the engine."""

COVERAGE = (0.80, 0.98)
"""Share of the figures that their intervals should hold."""

NULL_FACTOR = 3.0
"""How many times worse than the simulation the best null should be."""

_NULL_FIGURES = ("ttft_mean_s", "ttft_p50_s", "e2e_p50_s", "tpot_p50_s")
_PANELS = {"ttft_p50_s": "TTFT p50", "ttft_p99_s": "TTFT p99", "tpot_p50_s": "TPOT p50", "e2e_p50_s": "E2E p50"}
"""Figures of the picture."""

_COUNTS = ("num_requests", "prompt_tokens", "output_tokens")


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare requests and schedules, which must be equal, and the figures of every cell."""
    keys = tuple(simulated.summary["swept"])
    columns = COLUMNS | {key: Column(title=f"/{key.rpartition('.')[2]}", text=text_of(key)) for key in keys}
    comparison = Comparison(
        simulated, measured, Fields(keys=keys, figures=tuple(TARGETS), counts=_COUNTS, columns=columns)
    )
    cells = list(zip(simulated.summary["cells"], measured.summary["cells"], strict=True))
    rows = [row for number, (sim, real) in enumerate(cells) for row in _rows(number, sim, real)]
    comparison.contents |= {
        "figures": rows,
        "targets_met": sum(row["is_met"] for row in rows),
        "interval_coverage_frac": _coverage(cells),
        "null_factor": _null_factors(cells),
        "schedules": simulated.summary.get("schedules", []),
    }
    comparison.lines = [compare_text(comparison.contents, cells, keys=keys, coverage=COVERAGE, null_factor=NULL_FACTOR)]
    title = f"{measured.summary['scenario']}: simulated against measured"
    panels = [Panel(title=text, name=name, cells=comparison.cells) for name, text in _PANELS.items()]
    figure = diagonal_figure(title, panels, color_by=keys[0] if keys else "cell")
    return replace(
        compared(comparison.contents, comparison.lines, comparison.cells, figure),
        missed=tuple(_missed(comparison.contents)),
    )


def _missed(contents: Mapping[str, Any]) -> Iterator[str]:
    """Yield the targets that were missed, by name."""
    if not contents["counts_equal"]:
        yield "counts equal"
    if any(one["difference"] for one in contents["schedules"]):
        yield "schedules equal"
    for row in contents["figures"]:
        if not row["is_met"]:
            yield f"{row['figure']} of cell {row['cell']}"
    if not COVERAGE[0] <= contents["interval_coverage_frac"] <= COVERAGE[1]:
        yield "interval"
    if contents["null_factor"] and min(contents["null_factor"].values()) < NULL_FACTOR:
        yield "nulls"


def _rows(number: int, simulated: Mapping[str, Any], measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each figure with a target."""
    rows = []
    for name, target_frac in TARGETS.items():
        runs = measured["repeats"][name]
        error_frac = simulated[name] / measured[name] - 1
        in_spread = name in OR_IN_SPREAD and min(runs) <= simulated[name] <= max(runs)
        rows.append({
            "cell": number,
            "figure": name,
            "simulated": simulated[name],
            "interval": simulated["intervals"].get(name),
            "measured": measured[name],
            "runs": runs,
            "error_frac": error_frac,
            "target_frac": target_frac,
            "is_met": bool(abs(error_frac) <= target_frac or in_spread),
        })  # fmt: skip
    return rows


def _coverage(cells: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> float:
    """Return the share of all figures, of every cell, that lie in their intervals."""
    inside = [
        sim["intervals"][name][0] <= real[name] <= sim["intervals"][name][1]
        for sim, real in cells
        for name in FIGURES
        if name in sim["intervals"] and name in real
    ]
    return float(np.mean(inside))


def _null_factors(cells: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, float]:
    """Return how many times as far off as the simulation each null is, by the mean absolute error of latencies.

    Of the nulls that say something of every cell; none where a scenario is not to be measured.
    """
    nulls = [null for null in cells[0][0].get("nulls", ()) if all(null in sim["nulls"] for sim, _ in cells)]
    own = np.mean([abs(sim[name] / real[name] - 1) for sim, real in cells for name in _NULL_FIGURES])
    return {
        null: float(
            np.mean([abs(sim["nulls"][null][name] / real[name] - 1) for sim, real in cells for name in _NULL_FIGURES])
            / own
        )
        for null in nulls
    }
