"""Serving end to end on small traffic."""

import numpy as np
import pytest

from kvsim.errors import ScenarioError
from kvsim.experiments.serving.capacity import find_capacity
from kvsim.experiments.serving.report.capacity import capacity_figure, capacity_text
from kvsim.experiments.serving.report.figures import figures
from kvsim.experiments.serving.report.tables import show
from kvsim.experiments.serving.simulate import check, simulate
from kvsim.experiments.types import Job
from kvsim.report.results import load_result, write_result
from kvsim.scenario.shipped import find_scenario
from tests.experiments.running import check as check_named
from tests.experiments.serving.tiny import scenario, sessions


def one_cell(**changes):
    return simulate(scenario(**changes), Job()).summary["cells"][0]


SLO = {"ttft_s": 2.0, "tpot_s": 0.5, "met_frac": 0.9}


@pytest.fixture(scope="module")
def result():
    return simulate(scenario(slo=SLO, sweep={"arrivals.rate_hz": [0.2, 2.0, 20.0]}), Job())


def test_more_traffic_is_served_later(result):
    cells = result.summary["cells"]
    for name in ("ttft_p50_s", "ttft_p99_s", "e2e_p50_s", "running_mean", "kv_used_mean_frac"):
        values = [cell[name] for cell in cells]
        assert values == sorted(values) and values[0] < values[-1], name
    assert cells[0]["met_frac"] > cells[-1]["met_frac"]
    assert all(cell["goodput_hz"] <= cell["requests_hz"] for cell in cells)


def test_every_request_has_a_row_and_the_rows_add_up(result):
    rows, cells = result.rows, result.summary["cells"]
    assert rows["cell"].tolist() == [0] * 40 + [1] * 40 + [2] * 40
    for number, cell in enumerate(cells):
        own = rows["cell"] == number
        assert cell["ttft_mean_s"] == pytest.approx(rows["ttft_s"][own].mean())
        assert cell["num_requests"] == own.sum() and cell["output_tokens"] == rows["output_tokens"][own].sum()
        gaps = result.tables["itl"]
        assert gaps["count"][gaps["cell"] == number].sum() == cell["output_tokens"] - cell["num_requests"]
        span = {name: values[result.tables["timeline"]["cell"] == number] for name, values in
                result.tables["timeline"].items()}  # fmt: skip
        computed = (span["tokens_per_s"] * (span["end_s"] - span["start_s"])).sum()
        hits = rows["hit_tokens"][own].sum()
        assert computed == pytest.approx(cell["prompt_tokens"] - hits + cell["output_tokens"] - cell["num_requests"])
        in_system = ((span["running"] + span["waiting"]) * (span["end_s"] - span["start_s"])).sum()
        assert in_system == pytest.approx(rows["e2e_s"][own].sum(), rel=1e-6)


def test_every_figure_lies_in_its_interval_and_latencies_have_some_width(result):
    for cell in result.summary["cells"]:
        for name, (low, high) in cell["intervals"].items():
            assert low <= cell[name] <= high, name
        low, high = cell["intervals"]["tpot_p50_s"]
        assert low < high


def test_equal_scenarios_give_equal_results_and_other_seeds_others():
    first, second, other = (simulate(scenario(run__seed=seed), Job()) for seed in (0, 0, 1))
    assert first.summary == second.summary
    assert first.summary["cells"] != other.summary["cells"]


def test_a_smaller_pool_preempts_and_is_no_faster():
    def run(num_blocks):
        changes = {"generated__output": {"mean": 120.0}, "arrivals__rate_hz": 20.0}
        return one_cell(engine__num_gpu_blocks_override=num_blocks, **changes)

    roomy, tight = run(2000), run(70)
    assert roomy["preemptions"] == 0 and tight["preemptions"] > 0
    assert tight["duration_s"] > roomy["duration_s"] and tight["kv_used_peak_frac"] > 0.9


def test_hits_of_the_prefix_cache_move_latency():
    """Peers raised the hit rate and saw no latency change; here the same requests with caching are faster."""

    def run(caching):
        generated = sessions(60, prompt=600.0, output=8.0) | {"shared_tokens": 512}
        return one_cell(generated=generated, engine__enable_prefix_caching=caching, arrivals__rate_hz=1.0)

    without, cached = run(False), run(True)
    assert without["hit_tokens"] == 0 and cached["hit_frac"] > 0.8
    assert cached["ttft_mean_s"] < 0.5 * without["ttft_mean_s"]


def test_a_queue_of_prompts_predicts_nothing_beyond_its_capacity():
    for rate_hz, names in ((0.05, {"alone", "m_d_1"}), (1e4, {"alone"})):
        cell = one_cell(measure={"repeats": 1}, arrivals__rate_hz=rate_hz)
        assert set(cell["nulls"]) == names
        assert cell["nulls"]["alone"]["ttft_mean_s"] <= cell["ttft_mean_s"]


def test_continuous_batching_serves_sooner_than_static_batches():
    changes = {"generated__output": {"mean": 30.0, "cv": 1.0}, "arrivals__rate_hz": 2.0}
    static, vllm = (one_cell(engine__scheduler=name, **changes) for name in ("static", "vllm"))
    assert vllm["ttft_mean_s"] < static["ttft_mean_s"] and vllm["e2e_mean_s"] < static["e2e_mean_s"]


def test_a_closed_loop_never_has_more_requests_than_users():
    arrivals = {"process": "closed-loop", "users": 3, "think_mean_s": 0.1}
    cell = one_cell(arrivals=arrivals)
    assert cell["running_peak"] <= 3 and cell["running_mean"] > 1.5


def test_the_table_says_what_a_reader_must_know(result):
    text = show(result.summary)
    assert text.startswith("tiny: costs of cpu-smollm2-135m (measured)\n\n40 requests, 200 blocks\n")
    assert "meet the SLO" in text and "put together" in text


def test_pictures_are_drawn_from_a_result_that_was_kept(tmp_path, result):
    loaded = load_result(write_result(result, tmp_path))
    assert set(loaded.tables) == {"timeline", "itl"}
    pictures = figures(loaded)
    assert set(pictures) == {"serving_cdf.png", "serving_timeline.png", "serving_rate.png"}
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())


def test_check_counts_cells_and_finds_what_a_run_would():
    assert check(scenario(sweep={"arrivals.rate_hz": [1.0, 2.0]}), None) == 2
    with pytest.raises(ScenarioError, match="did you mean 'static'"):
        check(scenario(engine__scheduler="statik"), None)


def test_the_highest_rate_meets_the_slo_and_the_next_one_does_not():
    found = find_capacity(scenario(slo=SLO), None, num_seeds=2, tolerance_frac=0.05)
    for seed, rate in enumerate(found.rates):
        tried = {point.rate: point.met_frac for point in found.points if point.seed == seed}
        failing = min(other for other, met_frac in tried.items() if met_frac < SLO["met_frac"])
        assert tried[rate] >= SLO["met_frac"] and rate < failing <= rate * 1.05
    assert found.cost_low <= found.rates[0] <= found.cost_high
    low, high = found.interval
    assert low <= found.mean < high and found.mean == pytest.approx(np.mean(found.rates))
    assert "the highest rate at which 90% of the requests meet the SLO" in capacity_text(found, SLO["met_frac"])
    assert capacity_figure(found, "tiny", SLO["met_frac"]).axes


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, r"no \[slo\]"),
        ({"slo": {"ttft_s": 1e9}}, "even at arrivals.rate_hz"),
        ({"slo": {"ttft_s": 1e-6}}, "not even at arrivals.rate_hz"),
        ({"slo": SLO, "sweep": {"engine.max_num_seqs": [4, 8]}}, "give engine.max_num_seqs one value"),
    ],
)
def test_a_search_without_an_end_is_refused_in_one_line(changes, problem):
    with pytest.raises(ScenarioError, match=problem) as refusal:
        find_capacity(scenario(**changes), None, num_seeds=1)
    assert "\n" not in str(refusal.value)


def test_users_are_whole_numbers():
    arrivals = {"process": "closed-loop", "users": 2}
    found = find_capacity(scenario(arrivals=arrivals, slo={"tpot_s": 0.08, "met_frac": 0.9}), None, num_seeds=1)
    assert found.field == "arrivals.users" and found.rates[0] == int(found.rates[0])


def test_the_scenario_that_ships_is_fine():
    assert check_named(find_scenario("serving")) == 5
