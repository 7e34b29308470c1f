"""Where a cross-check finds the accesses of a measured scenario."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kvsim.errors import TraceError
from kvsim.experiments.decode.cells import measure_of, prompts_of
from kvsim.experiments.decode.recorded import is_like, trace_name
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
        if named not in files:
            alike = [file for file in files if is_like(file.name, scenario)]
            named = alike[0] if alike else named
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
        problems_text = "; ".join(f"{file.name} {problem}" for file, problem in list(problems.items())[:3])
        raise TraceError(place, f"no accesses for {_shown(prompts_of(scenario))} tokens of prompt: {problems_text}")

    return find


def _unfit(trace: TraceFile, scenario: Scenario, num_sequences: int) -> str | None:
    """Return why a trace cannot stand for what a measurement of the scenario would record; None where it can."""
    measure, prompts, recorded = measure_of(scenario), prompts_of(scenario), trace.header.prompt_tokens
    if recorded != (prompts if len(set(prompts)) > 1 else prompts[:1] * len(recorded)):
        return f"has {_shown(recorded)}"
    if trace.num_steps < measure.num_steps:
        return f"has {trace.num_steps} steps, measured are {measure.num_steps}"
    channel = scenario.selector.channel
    channel_name = channel if channel == MASS else f"{channel}@{scenario.page_tokens}"
    if scenario.selector.name != "full" and trace.header.channel(channel_name) is None:
        return f"has no {channel_name}"
    if trace.num_sequences != num_sequences:
        return f"has {trace.num_sequences} sequences"
    return None


def _shown(prompts: tuple[int, ...]) -> str:
    """Return the lengths of prompts in words: one number where all have it."""
    return f"{prompts[0]}" if len(set(prompts)) == 1 else ", ".join(map(str, prompts))


def _chosen(trace: TraceFile, scenario: Scenario) -> str | None:
    """Return a complaint where an engine recorded its own choice of pages, which a replay would take for this one."""
    if trace.header.channel(f"{SELECTION}@{scenario.page_tokens}") is None:
        return None
    return "was recorded under another selector"
