"""Simulated serving compared with measured serving: schedules first, then times with their targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvsim.experiments.serving.report.compare import compare_text
from kvsim.experiments.serving.run import FIGURES
from kvsim.experiments.types import Compared
from kvsim.report.pairs import pair_cells, pairs_csv, pairs_figure
from kvsim.report.results import RunResult, summary_json
from kvsim.report.style import png

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
_COUNTS = ("num_requests", "prompt_tokens", "output_tokens")


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare requests and schedules, which must be equal, and the figures of every cell."""
    keys = tuple(simulated.summary["swept"])
    pairs = pair_cells(simulated, measured, keys=keys, figures=tuple(TARGETS), counts=_COUNTS)
    cells = list(zip(simulated.summary["cells"], measured.summary["cells"], strict=True))
    rows = [row for number, (sim, real) in enumerate(cells) for row in _rows(number, sim, real)]
    contents = pairs.summary() | {
        "figures": rows,
        "targets_met": sum(row["is_met"] for row in rows),
        "interval_coverage_frac": _coverage(cells),
        "null_factor": _null_factors(cells),
        "schedules": simulated.summary.get("schedules", []),
    }
    return Compared(
        contents=contents,
        text=compare_text(contents, cells, keys=keys, coverage=COVERAGE, null_factor=NULL_FACTOR),
        files={
            "compare.png": png(pairs_figure(pairs, by=keys[0] if keys else "cell")),
            "compare.csv": pairs_csv(pairs).encode(),
            "compare.json": summary_json(contents).encode(),
        },
    )


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
    """Return how many times as far off as the simulation each null is, by the mean absolute error of latencies."""
    if not all("nulls" in sim for sim, _ in cells):
        return {}
    own = np.mean([abs(sim[name] / real[name] - 1) for sim, real in cells for name in _NULL_FIGURES])
    return {
        null: float(
            np.mean([abs(sim["nulls"][null][name] / real[name] - 1) for sim, real in cells for name in _NULL_FIGURES])
            / own
        )
        for null in cells[0][0]["nulls"]
    }
