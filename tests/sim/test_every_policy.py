"""Every policy through a whole simulation, in both partitions: counts add up, and the bound is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvsim.policies import POLICIES, PREFETCHERS, find_policy, make_policy
from kvsim.sim import simulate_decode
from tests.accesses import PAGE_BYTES, DriftingSource, make_input, make_profile, make_replay, make_setting

PARTITIONS = ("shared", "per_layer")


def simulated(name: str, partition: str, arguments: dict[str, Any], *, quota: int = 4) -> dict[str, Any]:
    replay = make_replay(DriftingSource(num_steps=25, start_tokens=500, num_sequences=2, seed=4), k_pages=5)
    kind = find_policy(name)
    frac = 1.0 if kind.holds == "everything" else 0.8 if kind.attends == "everything" else 0.45
    capacity = int(frac * replay.grid.num_pages) // replay.grid.num_layers * replay.grid.num_layers
    setting = make_setting(replay, capacity, quota=quota)
    setting = replace(setting, partition="per_layer" if partition == "per_layer" else "shared")
    policy = make_policy(name, setting, arguments)
    return dict(simulate_decode(make_input(replay, policy, setting, make_profile())))


def check_counts(rows: dict[str, Any]) -> None:
    total = {name: int(rows[name].sum()) for name in ("hits", "misses", "prefetched", "used", "wasted")}
    assert total["hits"] + total["misses"] == int(rows["selected"].sum())
    assert total["prefetched"] == total["used"] + total["wasted"]
    assert (rows["step_s"] > 0).all()
    assert int(rows["to_device_bytes"].sum()) == (total["misses"] + total["prefetched"]) * PAGE_BYTES


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", [name for name in POLICIES if name != "stream"])
def test_counts_of_every_policy_add_up(name: str, partition: str) -> None:
    check_counts(simulated(name, partition, {}))


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("prefetch", PREFETCHERS)
def test_counts_of_every_prefetcher_add_up(prefetch: str, partition: str) -> None:
    rows = simulated("arc", partition, {"prefetch": prefetch, "admission": "second-touch"})
    check_counts(rows)
    assert (rows["prefetched"].sum() > 0) == (prefetch != "none")


@pytest.mark.parametrize("partition", PARTITIONS)
def test_a_compiled_evictor_gives_the_rows_of_its_plain_twin_to_the_last_digit(partition: str) -> None:
    for name, entry in POLICIES.items():
        if entry.compiled:
            compiled, plain = (simulated(name, partition, {"compiled": choice}) for choice in (True, False))
            for column in compiled:
                np.testing.assert_array_equal(compiled[column], plain[column], err_msg=f"{name}: {column}")
