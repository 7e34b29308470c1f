"""The file that Perfetto reads: lanes of both runs, whole steps, no overlap to the nanosecond."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import KvsimError
from kvsim.report.timeline import BYTES, COUNTS, TimedRun, parse_steps, timeline_json
from kvsim.types import Lane, Span

LANES = ["steps", "host", "compute", "to device", "to host"]


def span(lane: Lane, name: str, start_s: float, end_s: float, step: int, **rest: Any) -> Span:
    return Span(lane=lane, name=name, start_s=start_s, end_s=end_s, step=step, **{"layer": None, **rest})


def timed_run(name: str = "simulated", *, begin_s: float = 0.0, num_steps: int = 4) -> TimedRun:
    """Return steps of 1 ms: 0.6 ms embed, 0.1 ms stall, 0.3 ms head; a prefetch goes from one step into the next."""
    spans = []
    for step in range(num_steps):
        zero_s = begin_s + step * 1e-3
        spans += [
            span("compute", "embed", zero_s, zero_s + 6e-4, step),
            span("compute", "stall", zero_s + 6e-4, zero_s + 7e-4, step, layer=0),
            span("compute", "head", zero_s + 7e-4, zero_s + 1e-3, step),
            span("host", "submit", zero_s + 1e-4, zero_s + 2e-4, step, layer=0),
        ]
        copy = {"layer": 1, "num_pages": 5, "submitted_s": zero_s + 2e-4}
        spans.append(span("to device", "prefetch", zero_s + 8e-4, zero_s + 1.6e-3, step, **copy))
    rows = {"step": np.arange(num_steps)} | {name: np.arange(num_steps) + 10 for name in (*COUNTS, *BYTES)}
    return TimedRun(name=name, spans=spans, rows=rows)


def events_of(*runs: TimedRun, steps: str = "1:3") -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(timeline_json(runs, parse_steps(steps), about={}))["traceEvents"]
    return events


def shown(events: list[dict[str, Any]], lane: str, pid: int = 1) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X" and event["cat"] == lane and event["pid"] == pid]


def test_processes_and_lanes_are_named_and_stand_in_order() -> None:
    events = events_of(timed_run(), timed_run("measured"))
    said = [event for event in events if event["ph"] == "M"]
    processes = {e["pid"]: e["args"]["name"] for e in said if e["name"] == "process_name"}
    assert processes == {1: "simulated", 2: "measured"}
    for pid in processes:
        names = {e["tid"]: e["args"]["name"] for e in said if e["name"] == "thread_name" and e["pid"] == pid}
        order = {
            e["tid"]: e["args"]["sort_index"] for e in said if e["name"] == "thread_sort_index" and e["pid"] == pid
        }
        assert [names[tid] for tid in sorted(names, key=lambda tid: order[tid])] == LANES
    tids = [event["tid"] for event in said if event["name"] == "thread_name"]
    assert len(set(tids)) == 10


def test_times_are_microseconds_and_the_first_step_begins_alike_in_both() -> None:
    events = events_of(timed_run(), timed_run("measured", begin_s=7.0))
    for pid in (1, 2):
        steps = shown(events, "steps", pid)
        # the prefetch of step 0 was under way: it began 200 us before step 1
        assert [(e["name"], e["ts"], e["dur"]) for e in steps] == [
            ("step 1", 200.0, 1000.0),
            ("step 2", 1200.0, 1000.0),
        ]
        embed = shown(events, "compute", pid)[0]
        assert (embed["name"], embed["ts"], embed["dur"]) == ("embed", 200.0, 600.0)


def test_a_steps_counts_and_a_copys_pages_are_told() -> None:
    events = events_of(timed_run())
    assert shown(events, "steps")[1]["args"] == dict.fromkeys((*COUNTS, *BYTES), 12)
    copies = shown(events, "to device")
    assert [copy["args"]["step"] for copy in copies] == [0, 1, 2]
    assert copies[1]["args"] == {"step": 1, "layer": 1, "pages": 5, "waited_us": 600.0}
    assert shown(events, "compute")[0]["args"] == {"step": 1}


def test_only_the_chosen_steps_are_there_but_for_copies_under_way() -> None:
    events = events_of(timed_run(), steps="2")
    assert {e["args"]["step"] for lane in ("host", "compute") for e in shown(events, lane)} == {2}
    assert [e["args"]["step"] for e in shown(events, "to device")] == [1, 2]


@pytest.mark.parametrize("text", ["", "a", "5:3", "3:3", "-1:2", "1:2:3", ":", "3:", ":3", "1.5"])
def test_steps_that_name_none_are_refused(text: str) -> None:
    with pytest.raises(KvsimError, match="write 3 for step 3, or 3:5"):
        parse_steps(text)


def test_steps_are_one_or_a_range_without_its_end() -> None:
    assert list(parse_steps("3:5")) == [3, 4]
    assert list(parse_steps("0")) == [0]


def test_steps_that_the_run_has_not_are_refused() -> None:
    with pytest.raises(KvsimError, match="steps 3:5: the run has 4, 0 to 3"):
        events_of(timed_run("measured"), steps="3:5")


def test_spans_that_overlap_are_a_fault_of_ours() -> None:
    run = timed_run()
    spans = [*run.spans, span("compute", "attention", 1.1e-3, 1.2e-3, 1)]
    with pytest.raises(AssertionError, match="overlap in lane compute of simulated"):
        events_of(TimedRun(name=run.name, spans=spans, rows=run.rows))


@given(
    begin_s=st.floats(0, 1e4),
    lengths_s=st.lists(st.floats(1e-10, 1e-3), min_size=1, max_size=30),
)
def test_adjacent_spans_stay_so_for_a_reader_who_cuts_off_below_a_nanosecond(
    begin_s: float, lengths_s: list[float]
) -> None:
    """Perfetto multiplies by 1,000 and truncates, and drops what then overlaps."""
    edges_s = begin_s + np.cumsum([0.0, *lengths_s])
    spans = [span("compute", "embed", start, end, 0) for start, end in pairwise(edges_s.tolist())]
    rows = {"step": np.arange(1)} | {name: np.zeros(1, dtype=int) for name in (*COUNTS, *BYTES)}
    events = shown(events_of(TimedRun(name="simulated", spans=spans, rows=rows), steps="0"), "compute")
    assert len(events) == len(lengths_s)
    for event, after in pairwise(events):
        end_ns = int(event["ts"] * 1000) + int(event["dur"] * 1000)
        assert int(after["ts"] * 1000) == end_ns
    total_ns = int(events[-1]["ts"] * 1000) + int(events[-1]["dur"] * 1000) - int(events[0]["ts"] * 1000)
    assert total_ns == pytest.approx((edges_s[-1] - edges_s[0]) * 1e9, abs=2)


def test_equal_times_that_a_digit_tells_apart_do_not_overlap_when_rounded() -> None:
    spans = [span("compute", "embed", 0.0, 100.5001e-9, 0), span("compute", "head", 100.4999e-9, 200e-9, 0)]
    rows = {"step": np.arange(1)} | {name: np.zeros(1, dtype=int) for name in (*COUNTS, *BYTES)}
    first, second = shown(events_of(TimedRun(name="simulated", spans=spans, rows=rows), steps="0"), "compute")
    assert (first["ts"], first["dur"]) == (0.0, 0.101)
    assert (second["ts"], second["dur"]) == (0.101, 0.099)


def test_the_file_says_what_it_is_of() -> None:
    written = json.loads(timeline_json([timed_run()], range(1), about={"scenario": "tiny", "cell": 3}))
    assert written["otherData"] == {"scenario": "tiny", "cell": 3}
    assert written["displayTimeUnit"] == "ms"  # Perfetto would read another unit into the times for "ns"
