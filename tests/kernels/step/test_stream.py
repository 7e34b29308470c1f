"""The compiled compute stream against the SimPy process: work ends when it does, and its time went where it says."""

from __future__ import annotations

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.kernels.step import layout
from kvsim.kernels.step.link import advance, make_transfer, submit
from kvsim.kernels.step.stream import put
from kvsim.policies import make_policy
from kvsim.profile.profile import SEGMENTS
from kvsim.sim.clock import BusyClock
from kvsim.sim.compute import ComputeStream, Work
from kvsim.sim.copies import Copies
from kvsim.sim.fast_path import FastPath
from kvsim.sim.link import Transfer
from tests.accesses import PAGE_BYTES, DriftingSource, make_input, make_profile, make_replay, make_setting

PROFILE = make_profile(synchronous=False, issue="stream", bandwidth_bytes_per_s=8e9)
Launched = tuple[float, int, int, float, float, float, bool]
"""Seconds since the launch before, pages of a copy submitted with it, segment, its three times, whether it waits."""

LAUNCHES = st.lists(
    st.tuples(
        st.sampled_from([1e-6, 1.3e-5, 3.57e-4]),
        st.integers(0, 4),
        st.integers(0, len(SEGMENTS) - 1),
        st.sampled_from([2.1e-5, 1.9e-4]),
        st.sampled_from([0.0, 7e-6, 2.3e-4]),
        st.sampled_from([0.0, 5e-6]),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def compiled(launches: list[Launched]) -> tuple[list[float], list[float]]:
    """Return when each work ends, and the stream's times by segment, then those of stalls and of the host."""
    replay = make_replay(DriftingSource())
    setting = make_setting(replay)
    steps = FastPath(
        simpy.Environment(), make_input(replay, make_policy("lru", setting, {}), setting, PROFILE), lambda _: None, 8
    )
    run, arrays = steps._arrays.address, steps._arrays
    clock, counts, ring = arrays[layout.CLOCK], arrays[layout.COUNTS], arrays[layout.RING]
    copies: list[int] = []
    for wait_s, pages, segment, device_s, host_s, tail_s, waits in launches:
        clock[layout.NOW] += wait_s
        if pages:
            copies.append(make_transfer(run, pages, 0, 0, -1, np.nan))
            submit(run, layout.DEMAND, copies[-1])
        first, awaited = int(counts[layout.NEXT_AFTER]), copies[-1:] if waits else []
        ring[layout.AFTER, first : first + len(awaited)] = awaited
        counts[layout.NEXT_AFTER] += len(awaited)
        advance(run, clock[layout.NOW])
        put(run, segment, device_s, host_s, tail_s, first, len(awaited))
    advance(run, np.inf)
    return arrays[layout.WORKS][: len(launches), layout.END_S].tolist(), arrays[layout.TIMES][0, :8].tolist()


def simulated(launches: list[Launched]) -> tuple[list[float], list[float]]:
    env = simpy.Environment()
    engine = Copies(env, PROFILE.link, PAGE_BYTES, chunk_pages=1, window_transfers=1).to_device
    stream = ComputeStream(env, 0.0)
    works: list[Work] = []

    def host():
        copies: list[Transfer] = []
        for wait_s, pages, segment, device_s, host_s, tail_s, waits in launches:
            yield env.timeout(wait_s)
            if pages:
                copies.append(Transfer(size=pages, is_demand=True, done=env.event()))
                engine.submit(copies[-1])
            works.append(
                Work(
                    segment=SEGMENTS[segment],
                    device_s=device_s,
                    launch_s=env.now,
                    host_end_s=env.now + host_s,
                    tail_s=tail_s,
                    copies=BusyClock(env),
                    waits_for=tuple(copy.done for copy in copies[-1:] if waits),
                    place=(0, 0),
                )
            )
            stream.put(works[-1])

    env.process(host())
    env.run()
    parts = stream.read_parts()
    ends_s = [np.nan if work.end_s is None else work.end_s for work in works]
    return ends_s, [*(parts.segments_s[name] for name in SEGMENTS), parts.stall_s, parts.host_s]


@settings(max_examples=150)
@given(launches=LAUNCHES)
def test_work_ends_and_takes_its_time_as_in_the_simulated_stream(launches: list[Launched]) -> None:
    (ends_s, times_s), (expected_ends_s, expected_times_s) = compiled(launches), simulated(launches)
    assert ends_s == expected_ends_s
    assert times_s == expected_times_s
    assert sum(times_s) == pytest.approx(max(ends_s))  # the parts add up to the time that passed
