"""The elements of a serving engine: arrivals, costs, sink and monitor."""

import tracemalloc

import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import PolicyError
from kvsim.policies.schedulers import StepPlan, StepWork
from kvsim.policies.schedulers.queues import FcfsQueue
from kvsim.policies.schedulers.vllm import Vllm
from kvsim.profile.serving import PARTS, ServingCosts
from kvsim.profile.tables import CostTable
from kvsim.sim.serving import Sessions, StepCosts, simulate_serving
from kvsim.sim.serving.arrivals import Arrivals
from kvsim.sim.serving.monitor import COLUMNS, Monitor
from tests.sim.serving.engines import costs, make_core, open_sessions, serve

LENGTHS = [(300, 40), (20, 200), (700, 3), (50, 90), (400, 60), (120, 1)] * 12


def submissions(sessions, *, service_s=1.0):
    """Return (time, request) of everything that is submitted, where each request takes so long."""
    env, seen = simpy.Environment(), []

    def submit(request):
        seen.append((round(env.now, 6), request))
        env.timeout(service_s).callbacks.append(lambda _: arrivals.finished(request))

    arrivals = Arrivals(env, sessions, submit)
    env.run()
    return seen


def test_a_turn_follows_the_end_of_the_one_before_by_its_pause():
    sessions = Sessions(first=np.array([0, 2, 3]), start_s=np.array([0.0, 0.5]), pause_s=np.array([0.0, 2.0, 0.0]))
    assert submissions(sessions) == [(0.0, 0), (0.5, 2), (3.0, 1)]


def test_users_take_sessions_in_their_order_and_never_more_at_a_time_than_there_are_users():
    sessions = Sessions(
        first=np.array([0, 1, 3, 4, 5]), start_s=None, pause_s=np.array([0.0, 0.0, 0.5, 0.25, 0.0]), num_users=2
    )
    assert submissions(sessions) == [(0.0, 0), (0.0, 1), (1.25, 3), (1.5, 2), (2.25, 4)]


grid = st.lists(st.floats(0, 1e5), min_size=1, max_size=6, unique=True).map(sorted)


@given(grid, st.data())
def test_the_cost_of_a_step_is_what_the_tables_say(amounts, data):
    seconds = st.lists(st.floats(0, 10), min_size=len(amounts), max_size=len(amounts))
    tables = {
        name: CostTable(
            amount="tokens",
            amounts=tuple(amounts),
            time_s=tuple((value,) for value in data.draw(seconds)),
        )
        for name in PARTS
    }
    numbers = data.draw(st.lists(st.integers(0, 200_000), min_size=5, max_size=5))
    requests, tokens, keys, pairs, sampled = numbers
    work = StepWork(requests, tokens, sampled, keys, pairs, 0)
    step_costs = StepCosts(ServingCosts(engine="test", **tables))
    host_s, forward_s = step_costs.step_s(work)
    by_part = {name: tables[name].at_s(amount) for name, amount in zip(PARTS, numbers, strict=True)}
    assert host_s == by_part["host"]
    assert forward_s == pytest.approx(sum(by_part.values()) - by_part["host"], rel=1e-12)
    assert step_costs.totals_s == by_part
    assert step_costs.most == dict(zip(PARTS, map(float, numbers), strict=True))


def test_steps_spread_as_the_residuals_do_and_equally_for_equal_seeds():
    spread = costs(step_s=1.0, step_residuals_frac=(-0.1, 0.0, 0.3))
    work = StepWork(1, 1, 1, 1, 1, 0)

    def times_s(seed):
        step_costs = StepCosts(spread, random=np.random.default_rng(seed))
        return np.array([sum(step_costs.step_s(work)) for _ in range(4000)])

    drawn = times_s(1)
    assert np.array_equal(drawn, times_s(1)) and not np.array_equal(drawn, times_s(2))
    assert np.quantile(drawn, [0, 0.5, 1]) == pytest.approx([0.9, 1.0, 1.3], abs=0.01)
    assert sum(StepCosts(spread).step_s(work)) == 1.0
    assert sum(StepCosts(spread, scale=2.0).step_s(work)) == 2.0


@pytest.mark.parametrize("is_async", [False, True])
def test_the_compiled_core_and_the_plain_one_are_served_alike(is_async):
    arrival_s = np.cumsum(np.random.default_rng(1).exponential(0.05, len(LENGTHS)))
    engine = {"num_blocks": 60, "tokens": 256, "sequences": 8, "is_async": is_async}
    step = costs(step_s=0.005, token_s=1e-5, key_s=1e-8, host_s=1e-4)
    compiled, plain = (serve(LENGTHS, arrival_s, step, scheduler=scheduler, **engine) for scheduler in (None, Vllm()))
    assert plain.requests.preemptions.sum() > 0
    for name in ("scheduled_s", "first_token_s", "last_token_s", "longest_gap_s", "preemptions", "hit_tokens"):
        assert np.array_equal(getattr(compiled.requests, name), getattr(plain.requests, name)), name
    assert np.array_equal(compiled.monitor.samples(), plain.monitor.samples())


def test_a_request_that_arrives_while_the_last_step_runs_is_not_left_waiting():
    """With steps scheduled ahead and an end that nobody knew of, a step is in flight when no request is left."""
    core = make_core([(5, 2), (5, 2)], scheduler=Vllm(), is_async=True, unused_tokens=1)
    served = simulate_serving(core, open_sessions([0.0, 2.5]), StepCosts(costs(step_s=1.0)), is_async=True)
    assert served.requests.last_token_s.tolist() == [2.0, 5.0]


def test_samples_stay_few_and_their_differences_exact():
    monitor = Monitor(num_blocks=10)
    work = StepWork(2, 7, 1, 1, 1, 6)
    num_steps = 50_000
    for step in range(num_steps):
        monitor.step(0.5 * step, work, running=2, waiting=step % 2, free_blocks=4)
    monitor.idle(0.5 * num_steps, free_blocks=10)
    samples = dict(zip(COLUMNS, monitor.samples().T, strict=True))
    assert samples["time_s"].size < 10_000
    assert samples["running"][-1] == 2 * 0.5 * num_steps and samples["waiting"][-1] == 0.5 * 0.5 * num_steps
    assert samples["used_blocks"][-1] == 6 * 0.5 * num_steps
    assert samples["tokens"][-1] == 7 * num_steps and samples["prefill_tokens"][-1] == 6 * num_steps
    assert np.allclose(np.diff(samples["running"]), 2 * np.diff(samples["time_s"]))
    assert (monitor.peak_running, monitor.peak_used_blocks) == (2, 6)


def test_memory_does_not_grow_with_steps():
    def peak_bytes(num_tokens):
        core = make_core([(16, num_tokens)] * 5)
        tracemalloc.start()
        served = simulate_serving(core, open_sessions([0.0, 100.0, 200.0, 300.0, 400.0]), StepCosts(costs(step_s=0.01)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert served.monitor.num_steps == 5 * num_tokens
        return peak

    _, few, many = (peak_bytes(num_tokens) for num_tokens in (100, 1_600, 8_000))  # the first one loads kernels
    assert many < 1.5 * few  # how many samples are held swings between half of the limit and all


class Lazy:
    """A scheduler that never schedules anything."""

    def queue(self):
        return FcfsQueue()

    def schedule(self, state, budget):
        return StepPlan()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_scheduler_that_lets_everybody_wait_is_named_and_not_waited_for(is_async):
    core = make_core([(5, 2)], scheduler=Lazy(), is_async=is_async)
    with pytest.raises(PolicyError, match="leaves 1 requests waiting for ever"):
        simulate_serving(core, open_sessions([0.0]), StepCosts(costs(step_s=1.0)), is_async=is_async)


@st.composite
def drawn_traffic(draw):
    """Draw requests and sessions: open or closed, with arrivals and pauses that coincide."""
    num_requests = draw(st.integers(1, 25))
    numbers = st.lists(st.integers(1, 120), min_size=num_requests, max_size=num_requests)
    lengths = list(zip(draw(numbers), draw(numbers), strict=True))
    pauses = st.sampled_from([0.0, 1e-3, 0.004, 0.1])
    pause_s = np.array(draw(st.lists(pauses, min_size=num_requests, max_size=num_requests)))
    cuts = draw(st.sets(st.integers(1, num_requests), max_size=8)) | {0, num_requests}
    first = np.array(sorted(cuts))
    if draw(st.booleans()):
        return lengths, Sessions(first=first, start_s=None, pause_s=pause_s, num_users=draw(st.integers(1, 4)))
    starts = st.lists(st.sampled_from([0.0, 0.005, 0.01, 0.1, 0.5]), min_size=first.size - 1, max_size=first.size - 1)
    return lengths, Sessions(first=first, start_s=np.cumsum(draw(starts)), pause_s=pause_s)


@given(traffic=drawn_traffic(), data=st.data())
def test_the_fast_path_serves_as_the_events_do(traffic, data):
    """To the last digit, with costs that make ends and arrivals coincide, and pools so small that requests wait."""
    lengths, sessions = traffic
    is_async = data.draw(st.booleans())
    limits = {"num_blocks": data.draw(st.integers(17, 60)), "sequences": data.draw(st.integers(1, 6)), "tokens": 64}
    limits["unused_tokens"] = data.draw(st.integers(0, 3))
    seconds = st.sampled_from([0.0, 1e-3, 0.0037])
    step = costs(step_s=data.draw(seconds), token_s=data.draw(seconds) / 10, host_s=data.draw(seconds))
    fast, plain = (
        simulate_serving(
            make_core(lengths, scheduler=scheduler, is_async=is_async, **limits),
            sessions,
            StepCosts(step),
            is_async=is_async,
        )
        for scheduler in (None, Vllm())
    )
    assert fast.end_s == plain.end_s
    for name in ("arrival_s", "scheduled_s", "first_token_s", "last_token_s", "longest_gap_s", "preemptions"):
        assert np.array_equal(getattr(fast.requests, name), getattr(plain.requests, name)), name
    assert np.array_equal(fast.monitor.samples(), plain.monitor.samples())
