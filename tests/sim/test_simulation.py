"""The invariants of the time model, over every policy and both kinds of machine."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvsim.policies import POLICIES, Plan, Setting, View, find_policy, make_policy
from kvsim.policies.base import NOTHING
from kvsim.profile.profile import Profile
from kvsim.sim import Replay, simulate_decode
from kvsim.sim.ledger import TIMES
from tests.accesses import DriftingSource, OwnPolicy, assert_same, make_input, make_profile, make_replay, make_setting

MACHINES = {
    "cpu": {},
    "gpu graph": {"synchronous": False, "issue": "stream"},
    "gpu eager": {"synchronous": False, "issue": "stream", "host_s": 1.5e-4},
    "gpu sorting": {"synchronous": False, "issue": "worker"},
    "interference": {"compute_slowdown_frac": 0.3, "both_ways_slowdown_frac": 0.2},
}


def run(
    name: str, profile: Profile, *, replay: Replay | None = None, capacity_frac: float = 0.4, quota: int = 4
) -> dict[str, NDArray[Any]]:
    replay = replay or make_replay(DriftingSource())
    everything = find_policy(name).holds == "everything"
    frac = 0.8 if find_policy(name).attends == "everything" else capacity_frac
    setting = make_setting(replay, None if everything else int(frac * replay.grid.num_pages), quota=quota)
    return dict(simulate_decode(make_input(replay, make_policy(name, setting, {}), setting, profile)))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_parts_of_a_step_add_up_to_it(policy: str, machine: str) -> None:
    rows = run(policy, make_profile(**MACHINES[machine]))
    parts = sum(rows[name] for name in TIMES)
    np.testing.assert_allclose(parts, rows["step_s"], rtol=1e-9)
    assert (rows["step_s"] > 0).all()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_halving_bandwidth_never_speeds_anything_up(policy: str, machine: str) -> None:
    fast = run(policy, make_profile(bandwidth_bytes_per_s=5e9, **MACHINES[machine]))
    slow = run(policy, make_profile(bandwidth_bytes_per_s=2.5e9, **MACHINES[machine]))
    # a single step may gain what the one before lost, so ends of steps are compared
    assert (np.cumsum(slow["step_s"]) >= np.cumsum(fast["step_s"]) * (1 - 1e-9)).all()
    np.testing.assert_array_equal(slow["digest"], fast["digest"])
    if policy == "lru":
        assert slow["step_s"].sum() > fast["step_s"].sum()


@pytest.mark.parametrize(
    "policy",
    # these attend to all that they hold, resident here to a selection
    [name for name, entry in POLICIES.items() if name != "resident" and find_policy(name).attends == "selection"],
)
def test_infinite_budget_equals_resident_to_the_last_digit(policy: str) -> None:
    profile = make_profile(own_s=0.0, sync_s=0.0, submit_s=0.0, write_back=False)
    resident = run("resident", profile)
    paged = run(policy, profile, capacity_frac=1.0)
    np.testing.assert_array_equal(paged["step_s"], resident["step_s"])
    assert paged["misses"].sum() == 0


def test_dense_equals_resident_at_full_attention_whatever_the_selector() -> None:
    profile, source = make_profile(), DriftingSource()
    resident = run("resident", profile, replay=make_replay(source, full=True))
    dense = run("dense", profile, replay=make_replay(source))
    for name in ("step_s", "attention_s", "host_s"):
        np.testing.assert_array_equal(dense[name], resident[name])
    assert (dense["mass_recall_frac"] == 1).all()
    assert dense["step_s"].sum() > run("resident", profile, replay=make_replay(source))["step_s"].sum()


def test_stream_with_infinite_budget_equals_resident_at_full_attention() -> None:
    profile = make_profile(own_s=0.0, sync_s=0.0, submit_s=0.0, write_back=False)
    replay = make_replay(DriftingSource(), full=True)
    resident = run("resident", profile, replay=replay)
    setting = make_setting(replay)
    streamed = simulate_decode(make_input(replay, make_policy("stream", setting, {}), setting, profile))
    np.testing.assert_array_equal(streamed["step_s"], resident["step_s"])


class Forgetful(OwnPolicy):
    """Evicts, at every decision, pages whose scrambled id lies below `forget_frac`: larger shares forget supersets."""

    def __init__(self, setting: Setting, forget_frac: float) -> None:
        ids = np.arange(setting.grid.num_pages)
        self._forgets = (ids * 7919 % 1009) / 1009 < forget_frac

    def decide(self, view: View) -> Plan:
        return Plan(victims=np.flatnonzero(view.evictable & self._forgets)) if view.free_slots > -1 else NOTHING


@pytest.mark.parametrize("machine", MACHINES)
def test_superset_of_the_misses_never_costs_less_and_costs_more(machine: str) -> None:
    profile = make_profile(**MACHINES[machine])
    replay = make_replay(DriftingSource())
    ends = []
    for forget_frac in (0.0, 0.2, 0.5, 1.0):
        setting = make_setting(replay)
        rows = simulate_decode(make_input(replay, Forgetful(setting, forget_frac), setting, profile))
        ends.append((int(rows["misses"].sum()), np.cumsum(rows["step_s"])))
    for (fewer, early), (more, late) in pairwise(ends):
        assert more > fewer
        assert (late >= early * (1 - 1e-9)).all()
        assert late[-1] > early[-1]


def test_same_input_gives_the_same_rows() -> None:
    first, second = (run("attention", make_profile(**MACHINES["gpu eager"])) for _ in range(2))
    assert_same(first, second)


@pytest.mark.parametrize("policy", ["lru", "attention"])
def test_hits_and_misses_are_the_selection_and_bytes_follow(policy: str) -> None:
    rows = run(policy, make_profile())
    np.testing.assert_array_equal(rows["hits"] + rows["misses"], rows["selected"])
    np.testing.assert_array_equal(rows["to_device_bytes"], (rows["misses"] + rows["prefetched"]) * 1_000_000)
    assert rows["used"].sum() + rows["wasted"].sum() == rows["prefetched"].sum()


def test_counts_do_not_depend_on_the_machine() -> None:
    digests = [run("attention", make_profile(**machine))["digest"] for machine in MACHINES.values()]
    for digest in digests[1:]:
        np.testing.assert_array_equal(digest, digests[0])


def test_prefetch_on_a_slow_link_arrives_late_and_stalls() -> None:
    replay = make_replay(DriftingSource())
    fast = run("attention", make_profile(bandwidth_bytes_per_s=1e12), replay=replay)
    slow = run("attention", make_profile(bandwidth_bytes_per_s=2e7), replay=replay)
    assert fast["prefetched"].sum() > 0
    assert slow["late"].sum() > fast["late"].sum()
    assert slow["stall_s"].sum() > fast["stall_s"].sum()


def test_hit_rate_moves_latency() -> None:
    """A published simulator raised its hit rate and its latency stayed the same to the last digit."""
    replay = make_replay(DriftingSource())
    small = run("lru", make_profile(), replay=replay, capacity_frac=0.35)
    large = run("lru", make_profile(), replay=replay, capacity_frac=0.8)
    assert large["hits"].sum() > small["hits"].sum()
    assert large["step_s"].sum() < small["step_s"].sum()


def test_host_bound_launches_show_as_host_time_not_as_stall() -> None:
    bound = run("resident", make_profile(synchronous=False, host_s=1e-3))
    free = run("resident", make_profile(synchronous=False))
    assert bound["host_s"].sum() > 0.5 * bound["step_s"].sum()
    assert bound["stall_s"].sum() == 0
    assert free["host_s"][1:].sum() == pytest.approx(1e-5 * (free["host_s"].size - 1))


def test_batch_contends_for_one_link() -> None:
    alone = run("lru", make_profile(), replay=make_replay(DriftingSource(num_sequences=1)))
    crowd = run("lru", make_profile(), replay=make_replay(DriftingSource(num_sequences=4)))
    assert crowd["stall_s"].sum() > 2 * alone["stall_s"].sum()
