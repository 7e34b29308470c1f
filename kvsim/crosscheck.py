"""A measured scenario simulated on its own recorded accesses, and the two compared: the wiring of the cross-check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from kvsim.cells import trace_name
from kvsim.errors import TraceError
from kvsim.report.compare import Comparison, compare
from kvsim.results import RunResult
from kvsim.run import simulate
from kvsim.scenario import Scenario

Progress: TypeAlias = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossCheck:
    """Both results of one scenario and what they say of each other."""

    measured: RunResult
    simulated: RunResult
    comparison: Comparison


def recorded_in(folder: Path) -> Callable[[Scenario], Path]:
    """Return what finds a scenario's recorded trace in the folder of a measured result."""

    def find(scenario: Scenario) -> Path:
        path = folder / trace_name(scenario)
        if not path.is_file():
            raise TraceError(path, "no such trace: the measured result is of other contexts, pages or selectors")
        return path

    return find


def simulate_measured(
    scenario: Scenario,
    measured: RunResult,
    folder: Path,
    *,
    beside: Path | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> CrossCheck:
    """Simulate `scenario` on the accesses that `measured` recorded in `folder`, and compare."""
    simulated = simulate(
        scenario,
        text=str(measured.manifest.get("scenario", "")),
        command=command,
        beside=beside,
        progress=progress,
        recorded=recorded_in(folder),
    )
    return CrossCheck(measured=measured, simulated=simulated, comparison=compare(simulated, measured))


def verdict_lines(figures: Mapping[str, object]) -> list[str]:
    """Return the figures of a comparison against what they should be, a line each."""

    def percent(name: str) -> str:
        value = figures[name]
        return f"{100 * value:.1f}%" if isinstance(value, int | float) else "-"

    tau = figures["kendall_tau"]
    within = "inside" if figures["worst_within_spread"] else "outside"
    return [
        f"counts equal: {'yes' if figures['counts_equal'] else 'NO'}",
        f"time per token, median error: {percent('tpot_median_error_frac')} (target: at most 5%)",
        f"time per token, worst error: {percent('tpot_worst_error_frac')}, {within} that cell's measured spread "
        "(target: at most 15%, or inside)",
        f"what the cache adds, median error in stalling cells: {percent('added_median_error_frac')} (target: 10%)",
        f"best null predictor, median error: {percent('best_null_median_error_frac')}; ours on the same cells: "
        f"{percent('paged_median_error_frac')} (target: a third of it)",
        f"resident + misses x bytes / bandwidth, median error: {percent('additive_null_median_error_frac')}",
        f"cells that stall a quarter of their time or more: {percent('stall_cells_frac')} (at least a third)",
        f"Kendall's tau: {'-' if tau is None else f'{tau:.3f}'} over {figures['kendall_pairs']} pairs "
        "(target: 0.9 over 20)",
        f"cells inside the simulated 90% interval: {percent('interval_coverage_frac')} (target: 80 to 98%)",
    ]
