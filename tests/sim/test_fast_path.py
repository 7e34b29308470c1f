"""Whole steps in compiled code say what the event by event says, row by row, and keep the invariants of the model."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kvsim.errors import KvsimError, PolicyError
from kvsim.policies import Plan, Policy, Setting, View, make_policy
from kvsim.profile.profile import Profile
from kvsim.sim import SimulationInput, Timeline, simulate_decode
from kvsim.sim.fast_path import FastPath, can_run
from kvsim.sim.ledger import TIMES
from kvsim.sim.simulation import Path, decode_in_chunks
from tests.accesses import DriftingSource, OwnPolicy, assert_same, make_input, make_profile, make_replay, make_setting

NEXT_STEP = {"prefetch": "next-step", "window_steps": 5}
PLAIN = {**NEXT_STEP, "compiled": False}
FREE = {"own_s": 0.0, "sync_s": 0.0, "submit_s": 0.0}
MACHINES: dict[str, dict[str, Any]] = {
    "reduced": FREE,
    "cpu": {},
    "gpu graph": {"synchronous": False, "issue": "stream"},
    "gpu eager": {"synchronous": False, "issue": "stream", "host_s": 1.5e-4},
    "gpu sorting": {"synchronous": False, "issue": "worker"},
    "cpu interference": {"compute_slowdown_frac": 0.3, "both_ways_slowdown_frac": 0.2},
    "gpu both ways": {"synchronous": False, "issue": "stream", "both_ways_slowdown_frac": 0.2},
}
POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "lru": ("lru", {}),
    "lru and next step": ("lru", NEXT_STEP),
    "plain lru and next step": ("lru", PLAIN),
    "attention": ("attention", {}),
    "resident": ("resident", {}),
    "stream": ("stream", {}),
    "predictive": ("predictive", {"pays_from_pages": 1.5}),
}


def given_run(policy: str, profile: Profile, *, frac: float = 0.35, **changes: Any) -> SimulationInput:
    """Return a fresh run; `changes` are of the source (seed, num_sequences, num_steps), the quota and the partition."""
    quota, partition = changes.pop("quota", 4), changes.pop("partition", "shared")
    replay = make_replay(DriftingSource(**changes))
    name, arguments = POLICIES[policy]
    frac = 1.0 if name == "resident" else max(frac, 0.8) if name == "stream" else frac
    num_layers = replay.grid.num_layers
    setting = Setting(
        grid=replay.grid,
        capacity_pages=int(frac * replay.grid.num_pages) // num_layers * num_layers,
        partition=partition,
        prefetch_quota_pages=quota,
        seed=0,
    )
    return make_input(replay, make_policy(name, setting, dict(arguments)), setting, profile)


def rows_of(path: Path, policy: str, profile: Profile, **changes: Any) -> dict[str, NDArray[Any]]:
    return dict(simulate_decode(given_run(policy, profile, **changes), path=path))


def same_rows(policy: str, profile: Profile, **changes: Any) -> dict[str, NDArray[Any]]:
    """Return the rows of a run, which are the same in whole steps and event by event."""
    whole, events = (rows_of(path, policy, profile, **changes) for path in ("auto", "events"))
    assert_same(whole, events)
    return events


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_fast_path_equals_events_to_the_last_digit(policy: str, machine: str) -> None:
    profile = make_profile(**MACHINES[machine])
    changes = {"num_steps": 36, "num_sequences": 2}  # two pages fill, and are written back
    same_rows(policy, profile, **changes)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    machine=st.sampled_from(list(MACHINES)),
    policy=st.sampled_from(list(POLICIES)),
    frac=st.floats(0.35, 1.0),
    quota=st.integers(0, 6),
    batch=st.integers(1, 3),
    partition=st.sampled_from(["shared", "per_layer"]),
    bandwidth=st.floats(2e7, 2e10),
)
def test_the_fast_path_equals_events_whatever_is_run(
    seed: int, machine: str, policy: str, frac: float, quota: int, batch: int, partition: str, bandwidth: float
) -> None:
    if policy == "stream":
        partition = "shared"
    if partition == "per_layer":
        frac = max(frac, 0.55)  # a layer's own slots must hold its selection
    profile = make_profile(**MACHINES[machine], bandwidth_bytes_per_s=bandwidth)
    changes = {"num_steps": 10, "start_tokens": 250, "seed": seed, "num_sequences": batch}
    changes |= {"frac": frac, "quota": quota, "partition": partition}
    same_rows(policy, profile, **changes)


def test_a_prefetch_queue_that_is_never_empty_is_carried_from_step_to_step() -> None:
    profile = make_profile(bandwidth_bytes_per_s=2e7)
    assert same_rows("attention", profile, num_steps=20, frac=0.4)["late"].sum() > 0


def test_rings_grow_where_more_is_under_way_than_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    grown = []
    grow = FastPath._grow
    monkeypatch.setattr(FastPath, "_grow", lambda self: (grown.append(1), grow(self))[1])
    monkeypatch.setattr("kvsim.sim.fast_path._FIRST_ROOM", 16)
    profile = make_profile(bandwidth_bytes_per_s=2e7, **FREE)
    same_rows("attention", profile, num_steps=40)
    assert grown


def test_chunks_are_the_rows_in_pieces() -> None:
    profile = make_profile()
    rows = rows_of("auto", "lru and next step", profile, num_steps=30)
    chunks = list(decode_in_chunks(given_run("lru and next step", profile, num_steps=30), chunk_steps=7))
    assert [chunk["step"].size for chunk in chunks] == [7, 7, 7, 7, 2]
    assert_same({name: np.concatenate([chunk[name] for chunk in chunks]) for name in rows}, rows)


def test_copies_that_slow_a_stream_beside_the_host_and_timelines_take_events() -> None:
    profile = make_profile(synchronous=False, compute_slowdown_frac=0.3)
    assert not can_run(profile)
    assert can_run(make_profile(compute_slowdown_frac=0.3))
    same_rows("lru", profile)
    with pytest.raises(KvsimError, match="event by event"):
        next(decode_in_chunks(given_run("lru", profile)))
    timeline = Timeline()
    simulate_decode(given_run("lru", make_profile()), timeline=timeline)
    assert timeline.spans


@pytest.mark.parametrize("machine", MACHINES)
def test_parts_add_up_and_halving_bandwidth_never_speeds_anything_up(machine: str) -> None:
    ends = []
    for bandwidth in (5e9, 2.5e9):
        rows = rows_of("auto", "lru and next step", make_profile(bandwidth_bytes_per_s=bandwidth, **MACHINES[machine]))
        np.testing.assert_allclose(sum(rows[name] for name in TIMES), rows["step_s"], rtol=1e-9)
        assert rows["used"].sum() + rows["wasted"].sum() == rows["prefetched"].sum() > 0
        ends.append((rows["digest"], np.cumsum(rows["step_s"])))
    for (fast_digest, fast), (slow_digest, slow) in pairwise(ends):
        assert (slow >= fast * (1 - 1e-9)).all()
        np.testing.assert_array_equal(slow_digest, fast_digest)


class Faulty(OwnPolicy):
    """Evicts what is selected."""

    def __init__(self, fault: str) -> None:
        self._fault = fault

    def decide(self, view: View) -> Plan:
        if self._fault == "selected leaves":
            return Plan(victims=view.selected[:1])
        return Plan(victims=np.flatnonzero(view.evictable)[: max(0, -view.free_slots - 1)])


@pytest.mark.parametrize("fault", ["selected leaves", "too few leave"])
def test_a_faulty_plan_is_refused_in_the_same_words(fault: str) -> None:
    said = []
    for path in ("auto", "events"):
        replay = make_replay(DriftingSource())
        setting = make_setting(replay, int(0.35 * replay.grid.num_pages))
        policy: Policy = Faulty(fault)
        with pytest.raises(PolicyError) as refused:
            simulate_decode(make_input(replay, policy, setting, make_profile()), path=path)
        said.append(str(refused.value))
    assert said[0] == said[1]
