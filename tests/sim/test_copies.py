"""The link against queueing theory, and the order in which it serves."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import simpy

from kvsim.sim.clock import BusyClock, stretched
from kvsim.sim.copies import Copies, CopyEngine, Transfer
from tests.accesses import PAGE_BYTES, make_profile


def md1_wait_s(seed: int, *, load: float, num_jobs: int) -> float:
    """Return the mean time a transfer waits when they come at random to a link at `load`."""
    env = simpy.Environment()
    link = make_profile(bandwidth_bytes_per_s=1e9).link
    engine = CopyEngine(env, link.to_device, link, PAGE_BYTES, None)
    service_s = link.to_device.transfer_s(1, PAGE_BYTES)
    rng = np.random.default_rng(seed)
    waits_s: list[float] = []

    def arrivals():
        for gap_s in rng.exponential(service_s / load, size=num_jobs):
            yield env.timeout(gap_s)
            transfer = Transfer(num_pages=1, is_demand=True, done=env.event())
            transfer.done.callbacks.append(lambda _, start=env.now: waits_s.append(env.now - start - service_s))
            engine.submit(transfer)

    env.process(arrivals())
    env.run()
    return statistics.fmean(waits_s) / service_s


def test_link_wait_matches_pollaczek_khinchine() -> None:
    """M/D/1 at 70% load: mean wait = rho * service / (2 (1 - rho))."""
    expected = 0.7 / (2 * (1 - 0.7))
    runs = [md1_wait_s(seed, load=0.7, num_jobs=4_000) for seed in range(16)]
    standard_error = statistics.stdev(runs) / math.sqrt(len(runs))
    assert abs(statistics.fmean(runs) - expected) < 4 * standard_error
    assert standard_error < 0.04 * expected  # or the check above proves nothing


def serve_order(issue: str) -> list[str]:
    env = simpy.Environment()
    link = make_profile(issue=issue).link
    copies = Copies(env, link, PAGE_BYTES, chunk_pages=2, window_transfers=2)
    served: list[str] = []

    def named(name: str, *, is_demand: bool) -> Transfer:
        transfer = copies.transfer(1, is_demand=is_demand, after=())
        transfer.done.callbacks.append(lambda _: served.append(name))
        return transfer

    for number in range(4):
        copies.hold_back(named(f"prefetch {number}", is_demand=False))
    copies.issue_prefetches()

    def later():
        yield env.timeout(1e-6)
        copies.to_device.submit(named("demand", is_demand=True))
        yield env.timeout(1.0)
        copies.issue_prefetches()

    env.process(later())
    env.run()
    return served


def test_worker_takes_demand_before_waiting_prefetches() -> None:
    assert serve_order("worker")[:2] == ["prefetch 0", "demand"]


def test_stream_cannot_reorder_but_holds_back_beyond_the_window() -> None:
    assert serve_order("stream") == ["prefetch 0", "prefetch 1", "demand", "prefetch 2", "prefetch 3"]


def test_demand_whose_slot_is_still_being_filled_waits_for_that_prefetch() -> None:
    env = simpy.Environment()
    copies = Copies(env, make_profile().link, PAGE_BYTES, chunk_pages=2, window_transfers=2)
    first = copies.transfer(1, is_demand=True, after=())
    prefetch = copies.transfer(1, is_demand=False, after=())
    demand = copies.transfer(1, is_demand=True, after=(prefetch.done,))
    order: list[str] = []
    prefetch.done.callbacks.append(lambda _: order.append("prefetch"))
    demand.done.callbacks.append(lambda _: order.append("demand"))
    for transfer in (first, prefetch, demand):
        copies.to_device.submit(transfer)
    env.run()
    assert order == ["prefetch", "demand"]


@pytest.mark.parametrize(("busy_s", "expected_s"), [(0.0, 1.0), (10.0, 1.5), (0.6, 1.2)])
def test_work_stretches_only_while_the_other_is_busy(busy_s: float, expected_s: float) -> None:
    """At half as slow again: T = 1 + O(T)/3, so 0.6 s of overlap costs 0.2 s."""
    env = simpy.Environment()
    other = BusyClock(env)

    def work():
        yield from stretched(env, 1.0, 0.5, other)
        return env.now

    def busy():
        other.start()
        yield env.timeout(busy_s)
        other.stop()

    env.process(busy())
    assert env.run(until=env.process(work())) == pytest.approx(expected_s)
