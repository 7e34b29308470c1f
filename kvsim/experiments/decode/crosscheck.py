"""Where a cross-check finds the accesses of a measured scenario, and what its figures should be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.errors import TraceError
from kvsim.experiments.decode.cells import measure_of
from kvsim.experiments.decode.recorded import trace_name
from kvsim.scenario.decode import Scenario
from kvsim.scenario.shipped import CAPTURE_SUFFIX
from kvsim.traces import MASS, TraceFile, open_trace
from kvsim.traces.access.header import SELECTION


def accesses_in(place: Path) -> Callable[[Scenario], Path]:
    """Return what finds a scenario's accesses in a measured result, in a folder of captures, or in one capture.

    The trace that a measurement of the scenario would write comes first, by its name. Else any will do that has the
    prompt, the selector's channel for the page size, steps enough, and either the batch's sequences or one to repeat.
    """
    if not place.exists():
        raise TraceError(place, "no such folder or trace")
    files = sorted(place.glob(f"*{CAPTURE_SUFFIX}")) if place.is_dir() else [place]
    if not files:
        runs = sorted(place.rglob(f"*{CAPTURE_SUFFIX}"))
        near = f"; did you mean {runs[-1].parent}?" if runs else ""
        raise TraceError(place, f"holds no trace{near}")

    def find(scenario: Scenario) -> Path:
        named = place / trace_name(scenario)
        if named in files:
            problem = _unfit(open_trace(named, verify=False), scenario, scenario.run.batch)
            if problem is not None:
                raise TraceError(named, f"{problem}: it was measured with other options")
            return named
        problems = {}
        for batch in (scenario.run.batch, 1):
            for file in files:
                trace = open_trace(file, verify=False)
                problem = _unfit(trace, scenario, batch) or _chosen(trace, scenario)
                if problem is None:
                    return file
                problems[file] = problem
        told = "; ".join(f"{file.name} {problem}" for file, problem in list(problems.items())[:3])
        raise TraceError(place, f"no accesses for {measure_of(scenario).prompt_tokens} tokens of prompt: {told}")

    return find


def _unfit(trace: TraceFile, scenario: Scenario, num_sequences: int) -> str | None:
    """Return why a trace cannot stand for what a measurement of the scenario would record; None where it can."""
    measure = measure_of(scenario)
    if set(trace.header.prompt_tokens) != {measure.prompt_tokens}:
        return f"has {' and '.join(f'{tokens}' for tokens in sorted(set(trace.header.prompt_tokens)))}"
    if trace.num_steps < measure.num_steps:
        return f"has {trace.num_steps} steps, measured are {measure.num_steps}"
    channel = scenario.selector.channel
    wanted = channel if channel == MASS else f"{channel}@{scenario.page_tokens}"
    if scenario.selector.name != "full" and trace.header.channel(wanted) is None:
        return f"has no {wanted}"
    if trace.num_sequences != num_sequences:
        return f"has {trace.num_sequences} sequences"
    return None


def _chosen(trace: TraceFile, scenario: Scenario) -> str | None:
    """Return a complaint where an engine recorded its own choice of pages, which a replay would take for this one."""
    if trace.header.channel(f"{SELECTION}@{scenario.page_tokens}") is None:
        return None
    return "was recorded under another selector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One figure of a comparison and the target for it."""

    name: str
    shown: str
    should_be: str
    is_met: bool | None
    """None where the figure does not apply, as the error in stalling cells where none stalls."""

    def __str__(self) -> str:
        """Return the line that a comparison ends with."""
        outcome = {True: "met", False: "MISSED", None: "does not apply"}[self.is_met]
        return f"{self.name}: {self.shown} (target: {self.should_be}): {outcome}"


def targets_of(figures: Mapping[str, Any]) -> list[Target]:
    """Return the figures of a comparison with their targets, those of docs/crosscheck.md."""
    median, worst = figures["tpot_median_error_frac"], figures["tpot_worst_error_frac"]
    added, null, ours = (figures[f"{name}_median_error_frac"] for name in ("added", "best_null", "paged"))
    stall, tau, coverage = figures["stall_cells_frac"], figures["kendall_tau"], figures["interval_coverage_frac"]
    is_inside, num_pairs = bool(figures["worst_within_spread"]), figures["kendall_pairs"]
    return [
        Target(
            name="counts equal",
            shown="yes" if figures["counts_equal"] else "NO",
            should_be="yes",
            is_met=bool(figures["counts_equal"]),
        ),
        Target(
            name="time per token, median error",
            shown=_percent(median),
            should_be="at most 5%",
            is_met=None if median is None else median <= 0.05,
        ),
        Target(
            name="time per token, worst error",
            shown=f"{_percent(worst)}, {'inside' if is_inside else 'outside'} that cell's measured spread",
            should_be="at most 15%, or inside",
            is_met=None if worst is None else abs(worst) <= 0.15 or is_inside,
        ),
        Target(
            name="what the cache adds, median error in stalling cells",
            shown=_percent(added),
            should_be="at most 10%",
            is_met=None if added is None else added <= 0.1,
        ),
        Target(
            name="median error where pages move",
            shown=f"{_percent(ours)}, best null predictor {_percent(null)}",
            should_be="a third of the null predictor's",
            is_met=None if ours is None or null is None else ours <= null / 3,
        ),
        Target(
            name="cells that stall a quarter of their time or more",
            shown=_percent(stall),
            should_be="at least a third",
            is_met=None if stall is None else stall >= 1 / 3,
        ),
        Target(
            name="Kendall's tau",
            shown=f"{'-' if tau is None else f'{tau:.3f}'} over {num_pairs} pairs",
            should_be="0.9 over 20",
            is_met=tau is not None and tau >= 0.9 and num_pairs >= 20,
        ),
        Target(
            name="cells inside the simulated 90% interval",
            shown=_percent(coverage),
            should_be="80 to 98%",
            is_met=None if coverage is None else 0.8 <= coverage <= 0.98,
        ),
    ]


def verdict_lines(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for each figure of a comparison with its target, and how many are met."""
    targets = targets_of(figures)
    judged = [target for target in targets if target.is_met is not None]
    missed = [target.name for target in judged if not target.is_met]
    closing = f"targets met: {len(judged) - len(missed)} of {len(judged)}"
    return [
        f"resident + misses x bytes / bandwidth, median error: {_percent(figures['additive_null_median_error_frac'])}",
        *map(str, targets),
        f"{closing}; missed: {'; '.join(missed)}" if missed else closing,
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"
