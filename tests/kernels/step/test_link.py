"""The compiled copy engines against the SimPy processes: the same transfers arrive at the same moments."""

from __future__ import annotations

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.kernels.step import layout
from kvsim.kernels.step.link import advance, make_transfer, submit
from kvsim.policies import make_policy
from kvsim.profile.profile import Profile
from kvsim.sim.copies import Copies
from kvsim.sim.fast_path import FastPath
from kvsim.sim.link import Transfer
from tests.accesses import PAGE_BYTES, DriftingSource, make_input, make_profile, make_replay, make_setting

Submitted = tuple[float, int, int, list[int]]
"""Seconds since the submission before, the queue, pages, and how far back the transfers are that it waits for."""

SUBMISSIONS = st.lists(
    st.tuples(
        st.sampled_from([1e-6, 1.3e-5, 1.57e-4, 2.1e-3]),
        st.sampled_from([layout.DEMAND, layout.PREFETCH, layout.BACK]),
        st.integers(1, 9),
        st.lists(st.integers(1, 4), max_size=2),
    ),
    min_size=1,
    max_size=14,
)
MACHINES = {
    "worker": {"issue": "worker"},
    "stream": {"issue": "stream"},
    "both ways": {"issue": "worker", "both_ways_slowdown_frac": 0.4},
}


def waits_of(submissions: list[Submitted], place: int) -> list[int]:
    """Return the transfers that one waits for; a page that is written back waits for none."""
    _, queue, _, back = submissions[place]
    return [] if queue == layout.BACK else sorted({place - each for each in back if place >= each})


def queue_of(profile: Profile, queue: int) -> int:
    return layout.DEMAND if queue == layout.PREFETCH and profile.link.issue == "stream" else queue


def compiled_arrivals_s(profile: Profile, submissions: list[Submitted]) -> list[float]:
    replay = make_replay(DriftingSource())
    setting = make_setting(replay)
    steps = FastPath(
        simpy.Environment(), make_input(replay, make_policy("lru", setting, {}), setting, profile), lambda _: None, 8
    )
    run, arrays = steps._arrays.address, steps._arrays
    clock, counts, ring = arrays[layout.CLOCK], arrays[layout.COUNTS], arrays[layout.RING]
    for place, (wait_s, queue, pages, _) in enumerate(submissions):
        clock[layout.NOW] += wait_s
        first = int(counts[layout.NEXT_AFTER])
        waits = waits_of(submissions, place)
        ring[layout.AFTER, first : first + len(waits)] = waits
        counts[layout.NEXT_AFTER] += len(waits)
        number = make_transfer(run, pages, first, len(waits), -1, np.nan)
        assert number == place
        submit(run, queue_of(profile, queue), number)
    advance(run, np.inf)
    return arrays[layout.DONE][: len(submissions), layout.ARRIVED_S].tolist()


def simulated_arrivals_s(profile: Profile, submissions: list[Submitted]) -> list[float]:
    env = simpy.Environment()
    copies = Copies(env, profile.link, PAGE_BYTES, chunk_pages=1, window_transfers=1)
    arrivals_s = [np.inf] * len(submissions)
    transfers: list[Transfer] = []

    def arrived(place: int) -> None:
        arrivals_s[place] = env.now

    def host():
        for place, (wait_s, queue, pages, _) in enumerate(submissions):
            yield env.timeout(wait_s)
            after = tuple(transfers[each].done for each in waits_of(submissions, place))
            transfer = Transfer(size=pages, is_demand=queue == layout.DEMAND, done=env.event(), after=after)
            transfer.done.callbacks.append(lambda _, place=place: arrived(place))
            transfers.append(transfer)
            (copies.to_host if queue == layout.BACK else copies.to_device).submit(transfer)

    env.process(host())
    env.run()
    return arrivals_s


@pytest.mark.parametrize("machine", MACHINES)
@settings(max_examples=60)
@given(submissions=SUBMISSIONS)
def test_transfers_arrive_when_the_simulated_ones_do(machine: str, submissions: list[Submitted]) -> None:
    profile = make_profile(**MACHINES[machine], bandwidth_bytes_per_s=8e9)
    assert compiled_arrivals_s(profile, submissions) == simulated_arrivals_s(profile, submissions)
