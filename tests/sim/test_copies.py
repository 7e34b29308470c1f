"""The order in which a link serves demands and prefetches, and work that stretches."""

from __future__ import annotations

import pytest
import simpy

from kvsim.sim.clock import BusyClock, stretched
from kvsim.sim.copies import Copies
from kvsim.sim.link import Transfer
from tests.accesses import PAGE_BYTES, make_profile


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
