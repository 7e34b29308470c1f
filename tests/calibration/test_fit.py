"""Tables go through the medians of their samples, never fall, and say how far samples lie from them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.calibration.fit import MAX_SAMPLES_A_POINT, cost_per_event_s, fit_table, slowdown_frac
from kvsim.errors import CalibrationError

samples = st.lists(
    st.tuples(
        st.sampled_from([1.0, 2.0, 4.0, 8.0]),
        st.sampled_from([1.0, 2.0]),
        st.floats(1e-7, 1.0, allow_subnormal=False),
    ),
    min_size=1,
    max_size=60,
)


@given(samples)
def test_more_work_never_costs_less(rows):
    table = fit_table(rows, "pages", "sequences")
    for batch in table.columns:
        times_s = [table.point_s(amount, batch) for amount in np.linspace(0.5, 12, 40)]
        assert all(right >= left - 1e-12 for left, right in itertools.pairwise(times_s))


@given(samples)
def test_no_time_lies_outside_what_was_measured(rows):
    table = fit_table(rows, "pages", "sequences")
    least, most = min(row[2] for row in rows), max(row[2] for row in rows)
    assert all(least * (1 - 1e-9) <= time_s <= most * (1 + 1e-9) for row in table.time_s for time_s in row)
    assert table.num_samples == len(rows)
    assert set(table.samples) <= set(rows)


def test_a_line_with_noise_is_found_within_its_own_error():
    rng = np.random.default_rng(0)
    rows = [
        (amount, batch, (1e-4 + 2e-6 * amount * batch) * rng.lognormal(0, 0.05))
        for amount in (10.0, 100.0, 1000.0)
        for batch in (1.0, 4.0)
        for _ in range(50)
    ]
    table = fit_table(rows, "tokens", "sequences")
    for amount, batch in ((10, 1), (1000, 4), (100, 4)):
        assert table.point_s(amount, batch) == pytest.approx(
            1e-4 + 2e-6 * amount * batch, rel=4 * table.median_error_frac
        )
    assert 0.005 < table.median_error_frac < 0.015  # 1.25 * 5% / sqrt(50)
    assert table.residual_low_frac == pytest.approx(-0.08, abs=0.02)
    assert table.residual_high_frac == pytest.approx(0.085, abs=0.02)


def test_a_point_without_samples_lies_between_its_neighbours():
    rows = [(1.0, 1.0, 1e-3), (3.0, 1.0, 3e-3), (1.0, 2.0, 2e-3), (2.0, 2.0, 3e-3), (3.0, 2.0, 5e-3)]
    assert fit_table(rows, "pages", "sequences").at_s(2, sequences=1) == pytest.approx(2e-3)


def test_a_time_that_falls_is_pooled_by_the_number_of_samples():
    rows = [(1.0, 1.0, 4e-3)] * 3 + [(2.0, 1.0, 2e-3)]
    assert fit_table(rows, "pages", "sequences").time_s == ((pytest.approx(3.5e-3),), (pytest.approx(3.5e-3),))


def test_a_profile_keeps_few_samples_from_the_least_to_the_most():
    rows = [(1.0, 1.0, float(time_s)) for time_s in range(1, 1000)]
    kept = fit_table(rows, "none").samples
    assert len(kept) == MAX_SAMPLES_A_POINT
    assert (kept[0][2], kept[-1][2]) == (1.0, 999.0)


def test_no_samples_are_a_fault():
    with pytest.raises(CalibrationError, match="no samples"):
        fit_table([], "none")


def test_slowdown_is_found_under_drift_and_never_negative():
    usual_s = np.linspace(1, 3, 11)
    assert slowdown_frac((usual_s * 1.1).tolist(), usual_s.tolist()) == pytest.approx(0.1)
    assert slowdown_frac((usual_s * 0.9).tolist(), usual_s.tolist()) == 0.0


def test_cost_of_an_event_leaves_out_runs_without_one():
    assert cost_per_event_s([5.0, 1.0, 9.0], [2, 0, 4], base_s=1.0) == 2.0
    assert cost_per_event_s([5.0], [0], base_s=1.0) == 0.0
