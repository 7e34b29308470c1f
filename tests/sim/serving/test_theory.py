"""The engine in simulated time against closed forms."""

import math
import statistics

import numpy as np
import pytest

from tests.sim.serving.engines import costs, serve


def wait_s(outputs, seed, *, load, step_s=0.01):
    """Return the mean time in the queue of one slot whose requests take a step for each output."""
    random = np.random.default_rng(seed)
    service_s = step_s * statistics.fmean(outputs)
    arrival_s = np.cumsum(random.exponential(service_s / load, len(outputs)))
    served = serve([(1, int(count)) for count in outputs], arrival_s, costs(step_s=step_s), sequences=1)
    return float(np.mean(served.requests.scheduled_s - arrival_s))


def assert_near(expected_s, runs_s):
    """Compare a mean with theory by the runs' own standard error, which must be small enough to prove something."""
    standard_error_s = statistics.stdev(runs_s) / math.sqrt(len(runs_s))
    assert abs(statistics.fmean(runs_s) - expected_s) < 4 * standard_error_s
    assert standard_error_s < 0.03 * expected_s


def test_one_slot_with_equal_requests_waits_as_an_m_d_1_queue():
    """Pollaczek and Khinchine at 70% load: mean wait = rho * service / (2 (1 - rho))."""
    expected_s = 0.7 * 0.01 / (2 * (1 - 0.7))
    assert_near(expected_s, [wait_s([1] * 4000, seed, load=0.7) for seed in range(30)])


def test_one_slot_with_geometric_outputs_waits_as_an_m_g_1_queue():
    """Mean wait = rate * E[S^2] / (2 (1 - rho)) with geometric service: near M/M/1's for many steps a request."""
    step_s, mean_steps, load = 0.01, 8, 0.6
    second_moment = step_s**2 * (2 - 1 / mean_steps) * mean_steps**2
    rate_hz = load / (step_s * mean_steps)
    expected_s = rate_hz * second_moment / (2 * (1 - load))
    runs_s = []
    for seed in range(40):
        random = np.random.default_rng([seed, 1])
        outputs = random.geometric(1 / mean_steps, 3000)
        arrival_s = np.cumsum(random.exponential(1 / rate_hz, outputs.size))
        served = serve([(1, int(count)) for count in outputs], arrival_s, costs(step_s=step_s), sequences=1)
        runs_s.append(float(np.mean(served.requests.scheduled_s - arrival_s)))
    assert_near(expected_s, runs_s)


@pytest.mark.parametrize("is_async", [False, True])
def test_little_s_law_holds_to_the_last_digit(is_async):
    """Requests in the system, integrated over time, are the sum of the times that they spend in it."""
    random = np.random.default_rng(3)
    lengths = [(int(prompt), int(out)) for prompt, out in random.integers(1, 400, (300, 2))]
    arrival_s = np.cumsum(random.exponential(0.05, len(lengths)))
    served = serve(
        lengths, arrival_s, costs(step_s=0.003, token_s=2e-5, host_s=1e-5), num_blocks=100, is_async=is_async
    )
    last = served.monitor.samples()[-1]
    in_system_s = last[1] + last[2]
    spent_s = float((served.requests.last_token_s - arrival_s).sum())
    assert served.requests.preemptions.sum() > 0
    assert math.isclose(in_system_s, spent_s, rel_tol=1e-9)


def test_one_request_alone_takes_the_sum_of_its_steps():
    step_s, token_s, key_s, pair_s, host_s = 0.01, 1e-4, 1e-6, 1e-7, 2e-3
    served = serve(
        [(5000, 4)],
        [1.0],
        costs(step_s=step_s, token_s=token_s, key_s=key_s, pair_s=pair_s, host_s=host_s),
        tokens=2048,
    )
    expected_s, computed = [], 0
    for tokens in (2048, 2048, 904, 1, 1, 1):
        pairs = tokens * computed + tokens * (tokens + 1) / 2
        computed += tokens
        expected_s.append(host_s + step_s + token_s * tokens + key_s * computed + pair_s * pairs)
    assert served.requests.first_token_s[0] - 1.0 == pytest.approx(sum(expected_s[:3]), rel=1e-12)
    assert served.requests.last_token_s[0] - 1.0 == pytest.approx(sum(expected_s), rel=1e-12)
    gap_s, counts = served.requests.gap_histogram()
    assert counts.sum() == 3
    assert gap_s.min() == pytest.approx(min(expected_s[3:]), rel=1e-3)
    assert served.requests.longest_gap_s[0] == pytest.approx(max(expected_s[3:]), rel=1e-9)


def test_scheduling_ahead_hides_the_shorter_of_host_and_device():
    def per_token_s(host_s, step_s, is_async):
        served = serve([(1, 1001)], [0.0], costs(step_s=step_s, host_s=host_s), is_async=is_async)
        return float(served.requests.last_token_s[0] - served.requests.first_token_s[0]) / 1000

    assert per_token_s(0.002, 0.01, False) == pytest.approx(0.012, rel=1e-9)
    assert per_token_s(0.002, 0.01, True) == pytest.approx(0.010, rel=1e-9)
    assert per_token_s(0.010, 0.002, True) == pytest.approx(0.010, rel=2e-3)


def test_faster_steps_never_make_the_whole_slower():
    random = np.random.default_rng(5)
    lengths = [(int(prompt), int(out)) for prompt, out in random.integers(1, 300, (150, 2))]
    arrival_s = np.cumsum(random.exponential(0.02, len(lengths)))
    ends_s = [
        serve(lengths, arrival_s, costs(step_s=step_s, token_s=1e-5), num_blocks=500).end_s
        for step_s in (0.001, 0.002, 0.004, 0.008)
    ]
    assert ends_s == sorted(ends_s) and ends_s[0] < ends_s[-1]
