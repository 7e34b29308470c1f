"""A timeline of a stamped run says what its parts say, span by span."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.paged.timeline import spans_of  # noqa: E402
from kvsim.policies.selectors import TopK  # noqa: E402
from tests.engine.decoding import input_for, run, snapshot_of  # noqa: E402

NUM_STEPS = 20  # from 151 tokens on: a page fills at 160
CASES = {
    "resident": (1, TopK(k_pages=3, sink_pages=1, recent_pages=1)),
    "stream": (9, None),
    "lru": (5, TopK(k_pages=3, sink_pages=1, recent_pages=1)),
    "attention": (5, TopK(k_pages=3, sink_pages=1, recent_pages=1)),
}
HOST = ("sync", "decide", "submit")


@pytest.fixture(scope="module", params=CASES)
def timed(request, tiny_model):
    """Return policy, result and spans of a stamped run on a link slow enough to stall."""
    pages_per_layer, selector = CASES[request.param]
    snapshot = snapshot_of(tiny_model, prompt_tokens=150, num_steps=NUM_STEPS)
    given = input_for(
        snapshot,
        request.param,
        num_steps=NUM_STEPS,
        pages_per_layer=pages_per_layer,
        selector=selector,
        pinned=(1, 1),
    )
    result = run(tiny_model, snapshot, given, is_stamped=True, bandwidth_bytes_per_s=2e7)
    return request.param, result, spans_of(result, given.setting.grid)


def test_compute_spans_of_a_step_add_up_to_its_parts(timed):
    policy, result, spans = timed
    parts = {name: part.reshape(NUM_STEPS, -1).sum(axis=1) for name, part in result.parts_s.items()}
    parts["select"] = parts["select"] + parts.pop("choose") + parts.pop("speculate")
    parts["host"] = sum(parts.pop(name) for name in HOST)
    found = {name: np.zeros(NUM_STEPS) for name in parts}
    for span in spans:
        if span.lane == "compute":
            found[span.name][span.step] += span.end_s - span.start_s
    for name, part in parts.items():
        np.testing.assert_allclose(found[name], part, rtol=0, atol=1e-9)
    assert (parts["stall"].sum() > 1e-3) == (policy != "resident")


def test_host_spans_of_a_step_add_up_to_its_host_times(timed):
    _, result, spans = timed
    for name in HOST:
        found = np.zeros(NUM_STEPS)
        for span in spans:
            if span.lane == "host" and span.name == name:
                found[span.step] += span.end_s - span.start_s
        np.testing.assert_allclose(found, result.parts_s[name].sum(axis=1), rtol=0, atol=1e-9)


def test_no_lane_overlaps_and_a_steps_compute_spans_leave_no_gap(timed):
    policy, _, spans = timed
    for lane in ("host", "compute", "to device", "to host"):
        in_lane = sorted((span for span in spans if span.lane == lane), key=lambda span: span.start_s)
        assert all(span.end_s >= span.start_s for span in in_lane)
        for before, after in pairwise(in_lane):
            assert after.start_s >= before.end_s - 1e-9
            if lane == "compute" and after.step == before.step:
                assert after.start_s == before.end_s
        assert in_lane or (policy == "resident" and lane.startswith("to "))


def test_copies_carry_the_pages_that_were_counted_and_lie_on_the_clock_of_the_stamps(timed):
    _, result, spans = timed
    for kind, column in (("demand", "misses"), ("prefetch", "prefetched")):
        found = np.zeros(NUM_STEPS, dtype=int)
        for span in spans:
            if span.name == kind:
                assert span.lane == "to device"
                found[span.step] += span.num_pages
        np.testing.assert_array_equal(found, result.counts[column])
    back = sum(span.num_pages for span in spans if span.lane == "to host")
    assert (back > 0) == (result.counts["to_host_bytes"].sum() > 0)
    submits = {(s.step, s.layer): s for s in spans if s.lane == "host" and s.name == "submit"}
    for span in spans:
        if span.name in ("demand", "write-back"):  # asked for by the layer whose pages they are
            asked = submits[span.step, span.layer]
            assert asked.start_s - 1e-9 <= span.submitted_s <= asked.end_s + 1e-9
            assert span.submitted_s <= span.start_s + 1e-9


def test_a_stall_ends_after_its_demand_arrived(timed):
    _, _, spans = timed
    stalls = {(s.step, s.layer): s for s in spans if s.lane == "compute" and s.name == "stall"}
    for span in spans:
        if span.name == "demand":
            assert stalls[span.step, span.layer].end_s >= span.end_s
