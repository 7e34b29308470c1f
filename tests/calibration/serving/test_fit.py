"""Costs of serving steps: from what an engine recorded to tables."""

import numpy as np
import pytest

from kvsim.calibration.serving.errors import run_errors
from kvsim.calibration.serving.fit import fit_serving
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
    assert costs.steps_s(held_out.amounts) == pytest.approx(held_out.step_s, rel=0.02)
    assert costs.host.at_s(16) == pytest.approx(2e-4 + 2e-5 * 16, rel=0.01)
    assert costs.pairs.at_s(1e4) == pytest.approx(1e-2, rel=0.1)
    assert costs.tokens.at_s(400) - costs.tokens.at_s(300) == pytest.approx(0.1, rel=0.05)


def test_tables_but_that_of_tokens_never_fall_and_the_spread_of_steps_is_kept():
    costs = fit_serving(random_samples(noise_frac=0.05), "test", "test")
    for name, table in costs.tables().items():
        column = [row[0] for row in table.time_s]
        assert name == "tokens" or column == sorted(column)
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
    assert np.median(costs.steps_s(clean.amounts) / clean.step_s) == pytest.approx(1, abs=0.02)
    assert costs.step_residuals_frac[-1] > 3


def test_two_tokens_may_take_longer_than_three():
    samples = random_samples()
    many = samples.amounts[:, 1] > 8
    samples = StepSamples(amounts=samples.amounts[many], host_s=samples.host_s[many], forward_s=samples.forward_s[many])
    random = np.random.default_rng(5)
    few = random.integers(1, 7, 200)
    amounts = np.column_stack([few, few, 100.0 * few, 100.0 * few, few])
    extra_s = np.where(few == 2, 4e-3, 0.0)
    forward_s = 0.03 + extra_s + 1e-6 * amounts[:, 3] + 2e-4 * few
    some = StepSamples(amounts=amounts, host_s=2e-4 + 2e-5 * few, forward_s=forward_s)
    tokens = fit_serving(StepSamples.together([samples, some]), "test", "test").tokens
    assert tokens.at_s(2) - tokens.at_s(1) == pytest.approx(4e-3, rel=0.1)
    assert tokens.at_s(2) - tokens.at_s(3) == pytest.approx(4e-3, rel=0.1)


def test_the_mean_spread_is_that_of_steps_drawn_from_the_quantiles():
    costs = fit_serving(random_samples(noise_frac=0.05), "test", "test")
    skewed = costs.model_copy(update={"step_residuals_frac": (-0.1, 0.0, 0.5)})
    drawn = 1 + np.interp(np.random.default_rng(0).random(100_000) * 2, [0, 1, 2], [-0.1, 0.0, 0.5])
    assert skewed.mean_spread == pytest.approx(drawn.mean(), abs=2e-3)
    assert skewed.model_copy(update={"step_residuals_frac": ()}).mean_spread == 1.0
    assert costs.mean_spread == pytest.approx(1.0, abs=0.01)


def test_amounts_of_tokens_without_steps_near_them_are_left_out():
    samples = random_samples()
    few = samples.amounts[:, 1] <= 200
    kept = StepSamples(amounts=samples.amounts[few], host_s=samples.host_s[few], forward_s=samples.forward_s[few])
    one = StepSamples(
        amounts=np.array([[1.0, 900.0, 900.0, 4e5, 1.0]]), host_s=np.array([2e-4]), forward_s=np.array([1.3])
    )
    amounts = fit_serving(StepSamples.together([kept, one]), "test", "test").tokens.amounts
    assert amounts[-1] == 900 and not any(200 < amount < 900 for amount in amounts)


def scaled(samples, factor):
    """Return the same steps on a machine that takes so many times as long."""
    return StepSamples(amounts=samples.amounts, host_s=factor * samples.host_s, forward_s=factor * samples.forward_s)


def test_what_rounds_share_does_not_average_out_and_what_bursts_differ_by_does():
    random = np.random.default_rng(3)
    seeds = iter(range(100))

    def rounds(shared, own):
        return [
            [scaled(random_samples(next(seeds), count=100), (1 + shared * error) * (1 + own * other))
             for other in random.standard_normal(4)]
            for error in random.standard_normal(6)
        ]  # fmt: skip

    by_round, by_burst = run_errors(rounds(0.05, 0.001)), run_errors(rounds(0.001, 0.05))
    assert 0.04 < by_round["error_frac"] < 0.17 and by_round["part_error_frac"] < 0.02
    assert 0.04 < by_burst["part_error_frac"] < 0.13 and by_burst["error_frac"] < by_burst["part_error_frac"] / 2
    part = random_samples(count=100)
    assert by_burst["part_s"] == pytest.approx(part.step_s.sum(), rel=0.3)
    costs = fit_serving(random_samples(), "test", "test").model_copy(update=by_burst)
    short, long = (costs.run_error_frac(parts * by_burst["part_s"]) for parts in (1, 16))
    assert short == pytest.approx(np.hypot(by_burst["error_frac"], by_burst["part_error_frac"]))
    assert long == pytest.approx(np.hypot(by_burst["error_frac"], by_burst["part_error_frac"] / 4))
    assert costs.run_error_frac(0.0) == short


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
