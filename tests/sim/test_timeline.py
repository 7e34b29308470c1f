"""A timeline of a simulated run says what the run's rows say, span by span, and changes nothing of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvsim.policies import POLICIES, find_policy, make_policy
from kvsim.sim import Timeline, simulate_decode
from kvsim.sim.ledger import HOST_TIMES, TIMES
from tests.accesses import PAGE_BYTES, DriftingSource, assert_same, make_input, make_profile, make_replay, make_setting

MACHINES: dict[str, dict[str, Any]] = {
    "cpu": {},
    "cpu interference": {"compute_slowdown_frac": 0.3, "both_ways_slowdown_frac": 0.2},
    "gpu graph": {"synchronous": False, "issue": "stream"},
    "gpu eager": {"synchronous": False, "issue": "stream", "host_s": 1.5e-4},
    "gpu sorting": {"synchronous": False, "issue": "worker", "compute_slowdown_frac": 0.3},
}
NUM_STEPS = 20  # from 401 tokens on: a page fills at 416
SAME_TIME_S = 1e-9

every_policy = pytest.mark.parametrize("policy", POLICIES)
every_machine = pytest.mark.parametrize("machine", MACHINES)


def run(policy: str, machine: str, timeline: Timeline | None) -> dict[str, NDArray[Any]]:
    replay = make_replay(DriftingSource(num_steps=NUM_STEPS))
    everything = find_policy(policy).holds == "everything"
    frac = 0.8 if find_policy(policy).attends == "everything" else 0.3
    setting = make_setting(replay, None if everything else int(frac * replay.grid.num_pages))
    given = make_input(replay, make_policy(policy, setting, {}), setting, make_profile(**MACHINES[machine]))
    return dict(simulate_decode(given, timeline=timeline))


def timed(policy: str, machine: str) -> tuple[Timeline, dict[str, NDArray[Any]]]:
    timeline = Timeline()
    return timeline, run(policy, machine, timeline)


@every_machine
@every_policy
def test_compute_spans_of_a_step_add_up_to_its_parts(policy: str, machine: str) -> None:
    timeline, rows = timed(policy, machine)
    found = {name: np.zeros(NUM_STEPS) for name in TIMES}
    for span in timeline.spans:
        if span.lane == "compute":
            found[f"{span.name}_s"][span.step] += span.end_s - span.start_s
    for name in TIMES:
        np.testing.assert_allclose(found[name], rows[name], rtol=0, atol=SAME_TIME_S)
    if policy == "lru":
        assert found["stall_s"].sum() > 0  # or that part was not put to the test
    if policy == "attention":
        assert found["host_s"].sum() > 0


@every_machine
@every_policy
def test_host_spans_of_a_step_add_up_to_its_host_times(policy: str, machine: str) -> None:
    timeline, rows = timed(policy, machine)
    for name in HOST_TIMES:
        found = np.zeros(NUM_STEPS)
        for span in timeline.spans:
            if span.lane == "host" and f"{span.name}_s" == name:
                found[span.step] += span.end_s - span.start_s
        np.testing.assert_allclose(found, rows[name], rtol=0, atol=SAME_TIME_S)


@every_machine
@every_policy
def test_compute_spans_leave_no_gap_and_no_lane_overlaps(policy: str, machine: str) -> None:
    timeline, rows = timed(policy, machine)
    for lane in ("host", "compute", "to device", "to host"):
        spans = sorted((span for span in timeline.spans if span.lane == lane), key=lambda span: span.start_s)
        assert all(span.end_s > span.start_s for span in spans)
        for before, after in pairwise(spans):
            gap_s = after.start_s - before.end_s
            assert gap_s > -1e-12
            assert lane != "compute" or gap_s < 1e-12
        if lane == "compute":
            assert spans[-1].end_s - spans[0].start_s == pytest.approx(rows["step_s"].sum(), rel=1e-12)


@every_machine
@every_policy
def test_copy_spans_carry_the_pages_that_the_rows_count(policy: str, machine: str) -> None:
    timeline, rows = timed(policy, machine)
    demand, prefetched, back = (
        np.array(
            [
                sum(span.num_pages or 0 for span in timeline.spans if span.name == kind and span.step == step)
                for step in range(NUM_STEPS)
            ]
        )
        for kind in ("demand", "prefetch", "write-back")
    )
    np.testing.assert_array_equal(demand, rows["misses"])
    # what is on its way, or held back, when the run ends is never told of
    assert (prefetched <= rows["prefetched"]).all()
    np.testing.assert_array_equal(prefetched[:-4], rows["prefetched"][:-4])
    np.testing.assert_array_equal(back * PAGE_BYTES, rows["to_host_bytes"])
    assert {span.lane for span in timeline.spans if span.name == "write-back"} <= {"to host"}
    assert all(span.lane == "to device" for span in timeline.spans if span.name in ("demand", "prefetch"))
    if policy in ("stream", "attention"):
        assert prefetched.sum() > 0
    if find_policy(policy).holds == "budget" and POLICIES[policy].kind != "dropping":  # dropped pages need no copy
        assert back.sum() > 0


def test_a_stall_ends_when_a_copy_arrives_and_a_copy_starts_after_it_was_submitted() -> None:
    timeline, _ = timed("lru", "cpu")
    arrivals_s = np.array([span.end_s for span in timeline.spans if span.lane == "to device"])
    stalls = [span for span in timeline.spans if span.name == "stall"]
    assert stalls
    for stall in stalls:
        assert np.abs(arrivals_s - stall.end_s).min() < 1e-12
    for span in timeline.spans:
        assert span.submitted_s is None or span.submitted_s <= span.start_s


def test_a_copy_names_the_layer_of_its_pages() -> None:
    """What `stream` prefetches is for the next layer; what `lru` demands is for the layer that waits for it."""
    streamed, _ = timed("stream", "cpu")
    fetched = [span for span in streamed.spans if span.name == "prefetch" and span.step == 3]
    submitting = [span for span in streamed.spans if span.lane == "host" and span.name == "submit" and span.step == 3]
    for copy in fetched:
        asked = next(span for span in submitting if span.start_s == copy.submitted_s)
        assert asked.layer is not None
        assert copy.layer == (asked.layer + 1) % 3
    assert {span.layer for span in fetched} == {0, 1, 2}
    demanded, _ = timed("lru", "cpu")
    for copy in (span for span in demanded.spans if span.name == "demand"):
        waiting = next(s for s in demanded.spans if s.name == "attention" and s.start_s >= copy.end_s - 1e-12)
        assert (waiting.step, waiting.layer) == (copy.step, copy.layer)


@every_machine
@every_policy
def test_looking_changes_nothing(policy: str, machine: str) -> None:
    _, rows = timed(policy, machine)
    assert_same(run(policy, machine, None), rows)


def test_a_host_that_runs_ahead_launches_and_waits_where_one_that_computes_does_neither() -> None:
    names = {machine: {span.name for span in timed("lru", machine)[0].spans} for machine in ("cpu", "gpu eager")}
    assert names["gpu eager"] >= {"launch", "wait", "sync", "decide", "submit"}
    assert not names["cpu"] & {"launch", "wait"}
