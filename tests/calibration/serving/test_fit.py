"""Costs of serving steps: from what an engine recorded to tables."""

import numpy as np
import pytest

from kvsim.calibration.serving.fit import error_frac, fit_serving, predicted_s
from kvsim.calibration.serving.plan import FULL, QUICK, requests_of
from kvsim.calibration.serving.samples import StepSamples, step_samples
from kvsim.errors import CalibrationError


def random_samples(seed=0, *, count=400, noise_frac=0.0):
    """Return steps whose time is a known sum: 30 ms to 32 tokens and 1 ms for each further one, 1 us a pair."""
    random = np.random.default_rng(seed)
    requests = random.integers(1, 33, count)
    tokens = np.where(random.random(count) < 0.5, requests, requests + random.integers(1, 500, count))
    keys = tokens + random.integers(0, 2000, count) * requests
    pairs = keys * np.where(tokens > requests, 20, 1)
    amounts = np.column_stack([requests, tokens, keys, pairs, requests]).astype(float)
    host_s = 2e-4 + 2e-5 * requests
    forward_s = 0.03 + 1e-3 * np.maximum(tokens - 32, 0) + 1e-6 * pairs + 2e-4 * requests
    spread = 1 + noise_frac * random.standard_normal(count)
    return StepSamples(amounts=amounts, host_s=host_s * spread, forward_s=forward_s * spread)


def test_a_known_sum_is_found_again():
    costs = fit_serving(random_samples(), "test", "test")
    held_out = random_samples(seed=1)
    assert predicted_s(costs, held_out) == pytest.approx(held_out.host_s + held_out.forward_s, rel=0.02)
    assert costs.host.at_s(16) == pytest.approx(2e-4 + 2e-5 * 16, rel=0.01)
    assert costs.pairs.at_s(1e4) == pytest.approx(1e-2, rel=0.1)
    assert costs.tokens.at_s(400) - costs.tokens.at_s(300) == pytest.approx(0.1, rel=0.05)


def test_tables_never_fall_and_the_spread_of_steps_is_kept():
    costs = fit_serving(random_samples(noise_frac=0.05), "test", "test")
    for table in costs.tables().values():
        column = [row[0] for row in table.time_s]
        assert column == sorted(column)
    middle = len(costs.step_residuals_frac) // 2
    assert abs(costs.step_residuals_frac[middle]) < 0.02
    low, high = costs.step_residuals_frac[2], costs.step_residuals_frac[-3]  # 5th and 95th percentile
    assert low == pytest.approx(-0.082, abs=0.02) and high == pytest.approx(0.082, abs=0.02)


def test_steps_far_off_do_not_move_the_tables():
    clean = random_samples()
    forward_s = clean.forward_s.copy()
    forward_s[::20] *= 5
    disturbed = StepSamples(amounts=clean.amounts, host_s=clean.host_s, forward_s=forward_s)
    costs = fit_serving(disturbed, "test", "test")
    assert np.median(predicted_s(costs, clean) / (clean.host_s + clean.forward_s)) == pytest.approx(1, abs=0.02)
    assert costs.step_residuals_frac[-1] > 3


def test_the_error_is_that_of_runs_left_out():
    equal = [random_samples(seed) for seed in range(3)]
    assert error_frac(equal, "test", "test") < 0.02
    slow = StepSamples(amounts=equal[0].amounts, host_s=1.2 * equal[0].host_s, forward_s=1.2 * equal[0].forward_s)
    assert 0.1 < error_frac([slow, *equal[1:]], "test", "test") < 0.3


def test_too_few_steps_are_refused():
    with pytest.raises(CalibrationError, match="at least 50"):
        fit_serving(random_samples(count=10), "test", "test")


def test_the_work_of_recorded_steps_counts_chunks_hits_and_preemptions():
    def step(scheduled, admitted=()):
        return {"scheduled": scheduled, "admitted": admitted, "start_s": 1.0, "end_s": 1.5, "execute_s": 0.4}

    steps = [
        step([["a", 8]], [["a", 0]]),
        step([["a", 4], ["b", 3]], [["b", 4]]),
        step([["a", 1]]),
        step([]),
        step([["b", 8]], [["b", 0]]),  # preempted after its first output, which it computes again
    ]
    samples = step_samples(steps, {"a": 12, "b": 7})
    assert samples.amounts.tolist() == [
        [1, 8, 8, 36, 0],
        [2, 7, 12 + 7, 4 * 8 + 10 + 3 * 4 + 6, 2],
        [1, 1, 13, 13, 1],
        [1, 8, 8, 36, 1],
    ]
    assert samples.host_s.tolist() == pytest.approx([0.1] * 4)


@pytest.mark.parametrize("bursts", [FULL, QUICK])
def test_random_requests_fit_the_engine_that_they_are_planned_for(bursts):
    random = np.random.default_rng(0)
    for burst in bursts:
        requests = requests_of(burst, random)
        arrivals = [row["arrival_step"] for row in requests]
        assert len(requests) == burst.num_requests and arrivals == sorted(arrivals)
        assert max(len(row["token_ids"]) + row["max_tokens"] for row in requests) <= 4096
