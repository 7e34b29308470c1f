"""Batches of unequal length whose sequences end at different steps: what they read, in both paths of the simulator."""

from __future__ import annotations

import numpy as np
import pytest

from kvsim.errors import TraceError
from kvsim.policies import make_policy
from kvsim.policies.base import Setting
from kvsim.sim import simulate_decode
from kvsim.traces.access.arrays import Trace
from kvsim.traces.access.ragged import Ragged
from kvsim.traces.access.repeated import Repeated
from kvsim.types import pages_of
from tests.accesses import PAGE_BYTES, PAGE_TOKENS, DriftingSource, assert_same, make_input, make_profile, make_replay

NUM_STEPS = 20
START_TOKENS = (400, 150, 271, 95)  # at the first step one more; 271 fills a page at once
STEPS = (20, 20, 6, 1)


def ragged(steps=STEPS, start_tokens=START_TOKENS):
    sources = [DriftingSource(num_sequences=len(start_tokens), start_tokens=tokens) for tokens in start_tokens]
    return Ragged(sources, steps)


def given_run(policy, source, *, selects=True, machine=None, frac=0.5, arguments=None):
    replay = make_replay(source)
    if not selects:
        replay._selector = None
    grid = replay.grid
    capacity = (
        grid.num_pages if policy == "resident" else int(frac * grid.num_pages) // grid.num_layers * grid.num_layers
    )
    setting = Setting(grid=grid, capacity_pages=capacity, partition="shared", prefetch_quota_pages=4, seed=0)
    return make_input(replay, make_policy(policy, setting, arguments or {}), setting, make_profile(**(machine or {})))


def pages_read(step, steps=STEPS):
    """Return the pages of the sequences that have not ended."""
    contexts = [tokens + 1 + step for tokens, last in zip(START_TOKENS, steps, strict=True) if step < last]
    return sum(pages_of(context, PAGE_TOKENS) for context in contexts)


@pytest.mark.parametrize("policy", ["resident", "lru", "stream"])
@pytest.mark.parametrize("path", ["events", "auto"])
def test_a_sequence_reads_its_own_pages_until_it_has_ended(policy, path):
    rows = simulate_decode(given_run(policy, ragged(), selects=False, frac=0.8), path=path)
    assert rows["selected"].tolist() == [3 * pages_read(step) for step in range(NUM_STEPS)]
    assert (rows["hits"] + rows["misses"] == rows["selected"]).all()
    assert (rows["mass_recall_frac"] == 1).all()


@pytest.mark.parametrize("machine", [{}, {"synchronous": False, "issue": "stream"}], ids=["cpu", "gpu"])
@pytest.mark.parametrize(
    ("policy", "arguments"),
    [
        ("resident", {}),
        ("stream", {}),
        ("lru", {}),
        ("lru", {"prefetch": "next-step", "window_steps": 5}),
        ("lru", {"prefetch": "previous-step"}),
        ("attention", {}),
        ("arc", {}),
    ],
)
def test_both_paths_give_the_same_rows(policy, arguments, machine):
    frac = 0.8 if policy == "stream" else 0.3
    expected, found = (
        simulate_decode(given_run(policy, ragged(), machine=machine, frac=frac, arguments=arguments), path=path)
        for path in ("events", "auto")
    )
    assert expected["misses"].sum() > 0 or policy in ("resident", "stream")
    assert_same(found, expected)


def test_pages_that_a_sequence_has_filled_are_written_back_once():
    contexts = [tokens + 1 + step for tokens, last in zip(START_TOKENS, STEPS, strict=True) for step in range(last)]
    filled = [context % PAGE_TOKENS == 0 for context in contexts]
    for path in ("events", "auto"):
        given = given_run("lru", ragged())
        rows = simulate_decode(given, path=path)
        assert rows["to_host_bytes"].sum() == 3 * sum(filled) * given.page_bytes


@pytest.mark.parametrize("path", ["events", "auto"])
def test_no_page_of_a_sequence_that_has_ended_is_brought(path):
    whole, ended = (
        simulate_decode(given_run("stream", ragged(steps), selects=False, frac=0.45), path=path)["to_device_bytes"]
        for steps in ((20, 20, 20, 20), (20, 1, 1, 1))
    )
    own_bytes = 3 * pages_of(START_TOKENS[0] + NUM_STEPS, PAGE_TOKENS) * PAGE_BYTES
    assert (whole[2:] > own_bytes).all()
    assert (ended[2:] <= own_bytes).all()


def test_equal_lengths_are_the_batch_as_it_was():
    tokens = (400,) * 3
    for path in ("events", "auto"):
        plain = simulate_decode(given_run("lru", DriftingSource(num_sequences=3)), path=path)
        same = simulate_decode(given_run("lru", ragged((20,) * 3, tokens)), path=path)
        assert_same(same, plain)


def test_a_batch_may_repeat_sequences_of_unequal_length():
    expected, found = (
        simulate_decode(given_run("lru", Repeated(ragged(), 6), frac=0.4), path=path) for path in ("events", "auto")
    )
    np.testing.assert_array_equal(found["digest"], expected["digest"])
    np.testing.assert_array_equal(found["step_s"], expected["step_s"])


def test_a_trace_of_arrays_states_unequal_lengths_and_ends():
    mass = np.zeros((6, 2, 1, 4))  # [step, sequence, layer, page]
    mass[:, 0] = 0.25
    mass[:3, 1, :, :2] = 0.5
    context = np.array([[50 + step, 20 + min(step, 2)] for step in range(6)])
    trace = Trace.from_arrays(mass, page_tokens=PAGE_TOKENS, context_tokens=context)
    replay = make_replay(trace, full=True)
    assert [replay.at(step, 0, everything=True).selected.size for step in range(6)] == [6, 6, 6, 4, 4, 4]
    assert replay.context_tokens(5).tolist() == [55, 0]
    with pytest.raises(TraceError, match="the masses of a layer sum to 1"):
        Trace.from_arrays(mass, page_tokens=PAGE_TOKENS, context_tokens=context + np.arange(6)[:, None])


def test_a_context_that_stands_still_with_mass_has_not_ended():
    mass = np.full((3, 1, 2), 0.5)
    trace = Trace.from_arrays(mass, page_tokens=PAGE_TOKENS, context_tokens=[30, 30, 30])
    replay = make_replay(trace, full=True)
    assert [replay.at(step, 0, everything=True).selected.size for step in range(3)] == [2, 2, 2]
