"""Spans as Chrome trace events, so that Perfetto shows host, compute and copies of two runs one above the other."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from numpy.typing import NDArray

from kvsim.errors import KvsimError
from kvsim.types import Lane, Span

LANES: tuple[Lane, ...] = get_args(Lane)
STEPS_LANE = "steps"
"""The lane above the others: a span a step, with the step's counts."""
COUNTS = ("selected", "hits", "misses", "late", "prefetched", "used", "wasted", "evicted")
BYTES = ("to_device_bytes", "to_host_bytes")
COLOURS = {"stall": "terrible", "host": "grey", "wait": "grey", "demand": "bad", "prefetch": "good"}
"""Chrome's reserved colour names; Perfetto colours by name of its own accord."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRun:
    """One run of a cell: who did what when, and the counts of its steps."""

    name: str
    """What its process is called: ``simulated`` or ``measured``."""
    spans: Sequence[Span]
    rows: Mapping[str, NDArray[Any]]
    """Columns of counts, one row a step from step 0 on."""


def parse_steps(text: str) -> range:
    """Return the steps that ``3:5`` names, 3 and 4, or ``3`` alone.

    Raises
    ------
    KvsimError
        If it names none.
    """
    first, colon, end = text.partition(":")
    if first.isdecimal() and (end.isdecimal() if colon else True):
        steps = range(int(first), int(end) if colon else int(first) + 1)
        if steps:
            return steps
    raise KvsimError(f"steps {text!r}: write 3 for step 3, or 3:5 for the steps from 3 up to, not including, 5")


def timeline_json(runs: Sequence[TimedRun], steps: range, *, about: Mapping[str, Any]) -> str:
    """Return `steps` of `runs` as Chrome trace-event JSON, a process for each run, a thread for each lane.

    The first chosen step starts at the same moment in every process. A copy is there if one of the steps asked for it
    or if it was under way meanwhile. Times in the file are microseconds, as the format demands, to the nanosecond.

    Parameters
    ----------
    about
        Metadata of the whole file, under ``otherData``.

    Raises
    ------
    KvsimError
        If a run has not all of `steps`.
    """
    shown = [(run, chosen(run, steps)) for run in runs]
    origins_s = [_window_s(spans)[0] for _, spans in shown]
    before_s = max(
        origin_s - min(span.start_s for span in spans) for (_, spans), origin_s in zip(shown, origins_s, strict=True)
    )
    events: list[dict[str, Any]] = []
    for place, ((run, spans), origin_s) in enumerate(zip(shown, origins_s, strict=True)):
        events += _process_events(run, spans, steps, pid=place + 1, zero_s=origin_s - before_s)
    contents = {"displayTimeUnit": "ms", "otherData": dict(about), "traceEvents": events}
    return json.dumps(contents, separators=(",", ":")) + "\n"


def chosen(run: TimedRun, steps: range) -> list[Span]:
    """Return the spans of `steps`, with the copies that were under way meanwhile.

    Raises
    ------
    KvsimError
        If the run has not all of `steps`.
    """
    num_steps = int(run.rows["step"].size)
    if steps[-1] >= num_steps:
        raise KvsimError(f"steps {steps[0]}:{steps[-1] + 1}: the run has {num_steps}, 0 to {num_steps - 1}")
    own = [span for span in run.spans if span.step in steps]
    start_s, end_s = _window_s(own)
    passing = [
        span
        for span in run.spans
        if span.step not in steps and span.num_pages is not None and span.start_s < end_s and span.end_s > start_s
    ]
    return own + passing


def _window_s(spans: Iterable[Span]) -> tuple[float, float]:
    """Return when the compute stream's first span starts and its last one ends: it has one at every moment."""
    compute = [span for span in spans if span.lane == "compute"]
    return min(span.start_s for span in compute), max(span.end_s for span in compute)


def _process_events(
    run: TimedRun, spans: Sequence[Span], steps: range, *, pid: int, zero_s: float
) -> Iterator[dict[str, Any]]:
    yield _named("process_name", pid, name=run.name)
    yield _named("process_sort_index", pid, sort_index=pid)
    lanes = {STEPS_LANE: _step_spans(run, spans, steps)} | {lane: _lane_spans(spans, lane) for lane in LANES}
    for place, (lane, in_lane) in enumerate(lanes.items()):
        tid = 10 * pid + place  # readers may take a thread's number for unique among all processes
        yield _named("thread_name", pid, tid, name=lane)
        yield _named("thread_sort_index", pid, tid, sort_index=place)
        free_ns = 0
        for name, start_s, end_s, arguments in in_lane:
            start_ns, end_ns = round((start_s - zero_s) * 1e9), round((end_s - zero_s) * 1e9)
            assert start_ns >= free_ns - 1, f"spans overlap in lane {lane} of {run.name}"
            start_ns = max(start_ns, free_ns)  # equal times may round apart
            free_ns = max(start_ns, end_ns)
            event = {"ph": "X", "name": name, "cat": lane, "pid": pid, "tid": tid}
            event |= {"ts": _microseconds(start_ns), "dur": _microseconds(free_ns - start_ns), "args": arguments}
            yield event | ({"cname": COLOURS[name]} if name in COLOURS else {})


def _named(what: str, pid: int, tid: int | None = None, **arguments: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": pid} | ({} if tid is None else {"tid": tid}) | {"args": arguments}


def _lane_spans(spans: Iterable[Span], lane: Lane) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    for span in sorted((span for span in spans if span.lane == lane), key=lambda span: span.start_s):
        arguments: dict[str, Any] = {"step": span.step}
        if span.layer is not None:
            arguments["layer"] = span.layer
        if span.num_pages is not None:
            arguments["pages"] = span.num_pages
        if span.submitted_s is not None:
            arguments["waited_us"] = _microseconds(round((span.start_s - span.submitted_s) * 1e9))
        yield span.name, span.start_s, span.end_s, arguments


def _step_spans(
    run: TimedRun, spans: Sequence[Span], steps: range
) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    for step in steps:
        start_s, end_s = _window_s(span for span in spans if span.step == step)
        yield f"step {step}", start_s, end_s, {name: int(run.rows[name][step]) for name in (*COUNTS, *BYTES)}


def _microseconds(time_ns: int) -> float:
    """Return the microseconds that a reader who multiplies by 1,000 and cuts off the rest takes for `time_ns`."""
    time_us = time_ns / 1000
    return time_us if int(time_us * 1000) >= time_ns else math.nextafter(time_us, math.inf)
