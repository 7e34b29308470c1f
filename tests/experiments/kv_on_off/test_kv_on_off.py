"""Generation with and without a cache: the same tokens, the bytes that the shape says, times that add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from kvsim.engine.model.generation import generate, peak_bytes
from kvsim.engine.model.loading import load_model
from kvsim.errors import CalibrationError, ScenarioError
from kvsim.experiments.base import shape_of
from kvsim.experiments.kv_on_off import simulate as kv_on_off
from kvsim.experiments.kv_on_off.report import exponent
from kvsim.experiments.registry import compare_results, load_experiment
from kvsim.report.results import RunResult
from kvsim.scenario.shipped import find_scenario
from tests.experiments.named import load_named
from tests.experiments.running import check, measure, printed, settings, simulate
from tests.experiments.tiny import write_tiny

SCENARIO = """
schema_version = 1
kind = "kv-on-off"
name = "tiny"
{ground}
[run]
new_tokens = 6
text = "text.txt"
repeats = 2
[sweep]
"run.use_cache" = [false, true]
"run.batch" = [1, 2]
"run.prompt_tokens" = [20, 50]
"""


@pytest.fixture(scope="module")
def scenario_file(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kv_on_off")
    file = folder / "tiny.toml"
    file.write_text(SCENARIO.format(ground=write_tiny(tiny_model_path, folder)))
    return file


@pytest.fixture(scope="module")
def simulated(scenario_file: Path) -> RunResult:
    return simulate(scenario_file)


@pytest.fixture(scope="module")
def measured(scenario_file: Path) -> RunResult:
    result, files = measure(scenario_file)
    assert not files
    return result


def test_counts_of_the_engine_are_those_of_the_simulator(simulated: RunResult, measured: RunResult) -> None:
    compared = compare_results(simulated, measured)
    assert compared.contents["counts_equal"], compared.contents.get("divergence")
    assert len(compared.contents["cells"]) == 8
    assert {f"compare.{kind}" for kind in ("csv", "json", "parquet", "png")} == set(compared.files)
    assert "counts equal: yes" in compared.text


def test_a_count_that_differs_is_told(simulated: RunResult, measured: RunResult) -> None:
    cells = [dict(cell) for cell in measured.summary["cells"]]
    cells[5]["kv_bytes"] += 1
    contents = compare_results(simulated, replace(measured, summary=measured.summary | {"cells": cells})).contents
    assert not contents["counts_equal"]
    assert str(contents["divergence"]).startswith("cell 5: kv_bytes is ")


def test_the_cache_changes_no_token(measured: RunResult) -> None:
    assert [cell["same_tokens_frac"] for cell in measured.summary["cells"]] == [1.0] * 8


def test_a_cell_takes_the_sum_of_its_calls(simulated: RunResult) -> None:
    by_place = {(c["use_cache"], c["batch"], c["prompt_tokens"]): c for c in simulated.summary["cells"]}
    # 1 ms a call, 10 us a new token, 0.1 us a cached one, as tests/experiments/tiny.py has it
    off = by_place[False, 1, 20]
    assert off["latency_s"] == pytest.approx(6 * 1e-3 + 1e-5 * sum(range(20, 26)), rel=1e-9)
    on = by_place[True, 1, 20]
    assert on["latency_s"] == pytest.approx(6 * 1e-3 + 1e-5 * 25 + 1e-7 * sum(range(21, 26)), rel=1e-9)
    assert on["speed_vs_off"] == pytest.approx(off["latency_s"] / on["latency_s"], rel=1e-12)
    assert on["first_token_s"] == pytest.approx(1e-3 + 20e-5, rel=1e-9)
    assert (off["computed_tokens"], on["computed_tokens"]) == (sum(range(20, 26)), 25)


def test_rows_add_up_to_the_cells(simulated: RunResult, measured: RunResult) -> None:
    for result in (simulated, measured):
        for number, cell in enumerate(result.summary["cells"]):
            own = result.rows["cell"] == number
            repeats_s = [
                float(result.rows["step_s"][own & (result.rows["repetition"] == repetition)].sum())
                for repetition in np.unique(result.rows["repetition"][own])
            ]
            assert min(repeats_s) * (1 - 1e-9) <= cell["latency_s"] * 1.6
            if "latency_repeats_s" in cell:
                assert repeats_s == pytest.approx(cell["latency_repeats_s"])
            else:
                assert repeats_s == pytest.approx([cell["latency_s"]])


def test_the_memory_predicted_is_what_the_tensors_take(simulated: RunResult, measured: RunResult) -> None:
    for predicted, taken in zip(simulated.summary["cells"], measured.summary["cells"], strict=True):
        assert predicted["peak_bytes"] == taken["peak_bytes"]


@pytest.mark.model
@pytest.mark.parametrize("new_tokens", [1, 2, 3, 24])
def test_the_memory_of_the_trained_model_is_prediction(model_path: Path, new_tokens: int) -> None:
    model, _ = load_model(model_path, "bf16", "cpu")
    changes = ["run.batch=2", "run.prompt_tokens=12", f"run.new_tokens={new_tokens}"]
    _, scenario = load_named(find_scenario("kv_on_off"), changes)
    for cell in scenario.cells:
        taken = peak_bytes(model, np.arange(24).reshape(2, 12), new_tokens, use_cache=cell.run.use_cache)
        predicted = kv_on_off.peak_bytes(cell, shape_of(cell))
        assert taken - 100_000 <= predicted <= taken, "but for scratch memory that torch hands out as tensors"


def test_a_result_and_a_comparison_have_their_pictures(simulated: RunResult, measured: RunResult) -> None:
    for result in (simulated, measured):
        assert [name for name, _ in load_experiment("kv-on-off").figures(result).items()] == ["kv_on_off.png"]
    files = compare_results(simulated, measured).files
    assert files["compare.png"].startswith(b"\x89PNG") and b"latency_error_frac" in files["compare.csv"]


def test_without_a_cache_every_token_is_read_again(tiny_model: object) -> None:
    prompt = np.arange(20).reshape(2, 10)
    on, off = (generate(tiny_model, prompt, 5, use_cache=use_cache) for use_cache in (True, False))
    assert np.array_equal(on.token_ids, off.token_ids)
    assert (on.computed_tokens, off.computed_tokens) == (2 * 14, 2 * (10 + 11 + 12 + 13 + 14))
    assert off.kv_bytes == 0 < on.kv_bytes


def test_growth_is_fitted_in_log_space(simulated: RunResult) -> None:
    assert exponent([10, 10], [1, 2]) is None
    growth = {(entry["growth"], entry["use_cache"]): entry for entry in simulated.summary["growth"]}
    kv = growth["KV cache over context", True]
    assert kv["exponent"] == pytest.approx(1.0) and kv["theory_low"] == 1.0
    steps = growth["step time over context", False]["exponent"]
    assert 0 < steps < 1  # a constant part and a linear one


def test_a_profile_without_the_cost_is_refused(scenario_file: Path) -> None:
    line = (
        "no cost 'forward@3'; it has forward@1, forward@2; it is exact, not measured: take one that `kvsim calibrate`"
    )
    with pytest.raises(CalibrationError, match=line):
        check(scenario_file, "run.batch=3")


def test_a_text_too_short_says_how_much_is_needed(scenario_file: Path) -> None:
    with pytest.raises(ScenarioError, match=r"has 900 tokens; 2 prompts of 480 need 960"):
        measure(scenario_file, "run.prompt_tokens=480", "run.batch=2")


def test_the_commands_walk_through(scenario_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*settings(["run.repeats=1", "run.prompt_tokens=20"]), "-o", str(tmp_path)]
    out = printed(capsys, "crosscheck", str(scenario_file), *options)
    assert "counts equal: yes" in out
    assert "every token again" in printed(capsys, "show", out.rpartition("simulated: ")[2].strip())
