"""Latencies and rates of served requests."""

import numpy as np
import pytest

from kvsim.experiments.serving.latency import latency_figures, meets, request_rows
from kvsim.experiments.serving.scenario import Slo

ROWS = request_rows(
    arrival_s=np.array([1.0, 2.0, 3.0]),
    scheduled_s=np.array([1.0, 2.5, 4.0]),
    first_token_s=np.array([2.0, 3.0, 6.0]),
    last_token_s=np.array([6.0, 3.0, 11.0]),
    prompt_tokens=np.array([10, 20, 30]),
    output_tokens=np.array([5, 1, 2]),
)
GAPS = np.array([1.0, 5.0]), np.array([4, 1])


def test_rows_are_the_differences_of_times():
    assert ROWS["queue_s"].tolist() == [0.0, 0.5, 1.0]
    assert ROWS["ttft_s"].tolist() == [1.0, 1.0, 3.0]
    assert ROWS["e2e_s"].tolist() == [5.0, 1.0, 8.0]
    assert ROWS["tpot_s"][[0, 2]].tolist() == [1.0, 5.0] and np.isnan(ROWS["tpot_s"][1])


def test_figures_of_a_cell():
    figures = latency_figures(ROWS, *GAPS, None)
    assert figures["duration_s"] == 10.0 and figures["requests_hz"] == 0.3
    assert figures["output_tokens_per_s"] == 0.8 and figures["tokens_per_s"] == 6.8
    assert figures["ttft_p50_s"] == 1.0 and figures["ttft_mean_s"] == pytest.approx(5 / 3)
    assert figures["tpot_p50_s"] == 3.0
    assert (figures["itl_p50_s"], figures["itl_p99_s"], figures["itl_mean_s"]) == (1.0, 5.0, 1.8)
    assert "met_frac" not in figures


@pytest.mark.parametrize(
    ("limits", "met"),
    [
        ({"ttft_s": 1.0}, [True, True, False]),
        ({"tpot_s": 1.0}, [True, True, False]),
        ({"e2e_s": 4.9}, [False, True, False]),
        ({"ttft_s": 3.0, "tpot_s": 5.0, "e2e_s": 8.0}, [True, True, True]),
    ],
)
def test_a_request_meets_the_slo_if_every_limit_holds(limits, met):
    slo = Slo(**limits)
    assert meets(ROWS, slo).tolist() == met
    figures = latency_figures(ROWS, *GAPS, slo)
    assert figures["met_frac"] == pytest.approx(sum(met) / 3) and figures["goodput_hz"] == sum(met) / 10


def test_a_cell_whose_requests_have_one_token_has_no_gaps():
    single = ROWS | {"tpot_s": np.full(3, np.nan)}
    figures = latency_figures(single, np.array([]), np.array([], dtype=np.int64), None)
    assert np.isnan(figures["itl_p50_s"]) and np.isnan(figures["tpot_p99_s"])
