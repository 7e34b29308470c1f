"""Layers on several simulated devices: copies of one do not wait for another's, and a token passes them in turn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kvsim.policies import find_policy, make_policy
from kvsim.policies.base import Setting
from kvsim.policies.devices import DeviceShare, split_layers
from kvsim.profile.hop import hop_of
from kvsim.profile.profile import Profile
from kvsim.sim import SimulationInput, simulate_decode
from kvsim.sim.ledger import BYTES, COUNTS, TIMES
from kvsim.types import Rows
from tests.accesses import DriftingSource, assert_same, make_input, make_profile, make_replay

MACHINES = {
    "cpu": {},
    "gpu": {"synchronous": False, "issue": "stream", "host_s": 1.5e-4},
    "interference": {"compute_slowdown_frac": 0.3, "both_ways_slowdown_frac": 0.2},
}
POLICIES = ["resident", "stream", "lru", "attention", "lru+next-step", "sink-window"]
NUM_LAYERS, PAGES_A_LAYER = 6, 12


def run_input(policy: str, profile: Profile, num_devices: int, partition: str = "shared") -> SimulationInput:
    """Return a run of six layers with room for so many pages a layer on each device."""
    name, _, prefetch = policy.partition("+")
    arguments = {"prefetch": prefetch} if prefetch else {}
    replay = make_replay(DriftingSource(num_layers=NUM_LAYERS))
    frac = 0.8 if find_policy(name).attends == "everything" else 0.5

    def setting_of(num_layers: int) -> Setting:
        grid = replace(replay.grid, num_layers=num_layers)
        everything = find_policy(name).holds == "everything"
        capacity = grid.num_pages if everything else int(frac * grid.pages_per_layer) * num_layers
        return Setting(grid=grid, capacity_pages=capacity, partition=partition, prefetch_quota_pages=4, seed=0)

    shares = tuple(
        DeviceShare(layers=layers, setting=(own := setting_of(len(layers))), policy=make_policy(name, own, arguments))
        for layers in split_layers(NUM_LAYERS, num_devices)
    )
    whole = setting_of(NUM_LAYERS)
    given = make_input(replay, make_policy(name, whole, arguments), whole, profile)
    return replace(given, devices=shares if num_devices > 1 else (), hidden_bytes=64 * 4)


def simulated(*arguments: object, **options: object) -> Rows:
    return simulate_decode(run_input(*arguments, **options), path="events")  # type: ignore[arg-type]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", POLICIES)
def test_parts_of_a_step_add_up_to_it(policy: str, machine: str) -> None:
    rows = simulated(policy, make_profile(**MACHINES[machine]), 3)
    np.testing.assert_allclose(sum(rows[name] for name in TIMES), rows["step_s"], rtol=1e-9)
    assert (rows["step_s"] > 0).all()
    assert (rows["hits"] + rows["misses"] == rows["selected"]).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_one_device_of_all_layers_is_the_run_that_names_none(policy: str) -> None:
    given = run_input(policy, make_profile(), 1)
    share = DeviceShare(layers=range(NUM_LAYERS), setting=given.setting, policy=given.policy)
    alone = simulate_decode(run_input(policy, make_profile(), 1), path="events")
    rows = simulate_decode(replace(given, devices=(share,)), path="events")
    assert_same(rows, alone)


@pytest.mark.parametrize("policy", ["lru", "arc", "lru+next-step"])
def test_counts_do_not_depend_on_the_devices_where_each_layer_has_a_pool(policy: str) -> None:
    runs = [simulated(policy, make_profile(), devices, "per_layer") for devices in (1, 2, 3)]
    for name in (*COUNTS, *BYTES, "mass_recall_frac"):
        if name != "late":
            np.testing.assert_allclose(runs[1][name], runs[0][name], rtol=1e-12)
            np.testing.assert_allclose(runs[2][name], runs[0][name], rtol=1e-12)
    assert runs[0]["misses"].sum() > 0


def test_the_hidden_state_pays_its_way_once_a_device_but_the_first() -> None:
    profile = make_profile()
    hop = hop_of(profile, 64 * 4)
    assert hop is not None
    alone = simulated("resident", profile, 1)
    for num_devices in (2, 3):
        rows = simulated("resident", profile, num_devices)
        more_s = (num_devices - 1) * (hop.transfer_s + hop.submit_s)
        np.testing.assert_allclose(rows["step_s"], alone["step_s"] + more_s, rtol=1e-9)


def test_devices_with_an_emulated_link_pay_no_way() -> None:
    profile = make_profile()
    emulated = profile.model_copy(update={"link": profile.link.model_copy(update={"emulated": True})})
    np.testing.assert_array_equal(
        simulated("resident", emulated, 3)["step_s"], simulated("resident", emulated, 1)["step_s"]
    )


def test_links_of_their_own_are_faster_than_one_that_all_share() -> None:
    """Prefetches of one device do not hold up another's demand: as many pages move, and less time is waited."""
    profile = make_profile(bandwidth_bytes_per_s=3e8)
    emulated = profile.model_copy(update={"link": profile.link.model_copy(update={"emulated": True})})
    alone, split = (simulated("attention", emulated, devices, "per_layer") for devices in (1, 3))
    np.testing.assert_allclose(split["to_device_bytes"].sum(), alone["to_device_bytes"].sum(), rtol=0.02)
    assert split["stall_s"].sum() < 0.7 * alone["stall_s"].sum()


def test_steps_of_several_devices_are_simulated_event_by_event() -> None:
    assert_same(simulate_decode(run_input("lru", make_profile(), 2)), simulated("lru", make_profile(), 2))
