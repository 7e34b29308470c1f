"""The link against queueing theory: one class of transfers, and demands before prefetches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
import simpy

from kvsim.sim.link import Link, Transfer

SERVICE_S = 2.0


def mean_waits_s(seed: int, loads: Sequence[tuple[float, bool]], num_jobs: int) -> list[float]:
    """Return the mean wait of each class of transfers, which come at random: its load, and whether it is demanded."""
    env = simpy.Environment()
    link = Link(env, lambda size: SERVICE_S * size)
    waits_s: list[list[float]] = [[] for _ in loads]

    def arrivals(rng: np.random.Generator, load: float, is_demand: bool, waited_s: list[float]):
        while len(waited_s) < num_jobs:
            yield env.timeout(rng.exponential(SERVICE_S / load))
            transfer = link.send(1, is_demand=is_demand)
            transfer.done.callbacks.append(lambda _, start=env.now: waited_s.append(env.now - start - SERVICE_S))

    generators = np.random.default_rng(seed).spawn(len(loads))
    processes = [
        env.process(arrivals(rng, *load, waited_s))
        for rng, load, waited_s in zip(generators, loads, waits_s, strict=True)
    ]
    env.run(until=env.any_of(processes))
    return [statistics.fmean(waited_s) for waited_s in waits_s]


def check_mean(runs_s: Sequence[float], expected_s: float) -> None:
    standard_error_s = statistics.stdev(runs_s) / math.sqrt(len(runs_s))
    assert abs(statistics.fmean(runs_s) - expected_s) < 4 * standard_error_s
    assert standard_error_s < 0.04 * expected_s  # or the check above proves nothing


@pytest.mark.parametrize("is_demand", [True, False])
def test_wait_matches_pollaczek_khinchine(is_demand: bool) -> None:
    """M/D/1 at 70% load: mean wait = rho * service / (2 (1 - rho))."""
    runs_s = [mean_waits_s(seed, [(0.7, is_demand)], 4_000)[0] for seed in range(16)]
    check_mean(runs_s, 0.7 * SERVICE_S / (2 * (1 - 0.7)))


def test_demands_wait_as_if_before_all_prefetches_but_the_one_under_way() -> None:
    """Cobham (1954), no preemption: W1 = R / (1 - rho1), W2 = W1 / (1 - rho), with R = rho * service / 2."""
    demand, prefetch = 0.3, 0.4
    runs_s = [mean_waits_s(seed, [(demand, True), (prefetch, False)], 4_000) for seed in range(16)]
    rest_s = (demand + prefetch) * SERVICE_S / 2
    check_mean([run_s[0] for run_s in runs_s], rest_s / (1 - demand))
    check_mean([run_s[1] for run_s in runs_s], rest_s / (1 - demand) / (1 - demand - prefetch))


def test_a_miss_overtakes_chunks_that_have_not_begun_and_waits_for_the_one_under_way() -> None:
    env = simpy.Environment()
    arrived_s: dict[str, float] = {}
    link = Link(env, lambda size: 1.0 if size == 2 else 0.1, log=lambda transfer, _: None)

    def host():
        chunks = [link.send(2, is_demand=False) for _ in range(3)]
        for number, chunk in enumerate(chunks):
            chunk.done.callbacks.append(lambda _, name=f"chunk {number}": arrived_s.__setitem__(name, env.now))
        yield env.timeout(0.5)
        yield link.send(1, is_demand=True).done
        arrived_s["demand"] = env.now

    env.run(until=env.process(host()))
    env.run()
    assert arrived_s == pytest.approx({"chunk 0": 1.0, "demand": 1.1, "chunk 1": 2.1, "chunk 2": 3.1})


def test_a_link_that_keeps_order_lets_nobody_overtake() -> None:
    env = simpy.Environment()
    done: list[tuple[bool, float]] = []

    def log(transfer: Transfer, start_s: float) -> None:
        done.append((transfer.is_demand, start_s))

    link = Link(env, float, keeps_order=True, log=log)
    for is_demand in (False, False, True):
        link.send(1, is_demand=is_demand)
    env.run()
    assert done == [(False, 0.0), (False, 1.0), (True, 2.0)]
