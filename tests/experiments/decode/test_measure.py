"""The real engine and the simulator on one scenario: counts equal page by page, and what breaks that is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from transformers import DynamicCache

from kvsim.engine.model.loading import read_shape
from kvsim.engine.model.text import read_text
from kvsim.errors import KvsimError, ResultError, ScenarioError, TraceError
from kvsim.experiments.decode.engine import bench as runs
from kvsim.experiments.decode.experiment import check_simulated
from kvsim.experiments.decode.recorded import trace_name
from kvsim.experiments.decode.report.compare import COUNTED, compare, first_divergence
from kvsim.experiments.decode.report.targets import verdict_lines
from kvsim.policies import Paged, Setting, make_policy
from kvsim.report.results import RunResult, load_result, write_result
from kvsim.scenario.decode import load_scenario
from kvsim.scenario.shipped import find_scenario
from kvsim.traces import open_trace
from kvsim.types import PageGrid
from tests.experiments.decode.measured import Measured, agreed, measure, simulated
from tests.experiments.decode.measured import scenario_file as scenario_file


@pytest.fixture(scope="module")
def measured(scenario_file: Path) -> Measured:
    return measure(load_scenario(scenario_file), scenario_file)


@pytest.fixture(scope="module")
def folder(measured: Measured, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_result(measured.result, tmp_path_factory.mktemp("results"), measured.traces)


def test_simulator_and_engine_agree_on_every_count_of_every_step(
    scenario_file: Path, measured: Measured, folder: Path
) -> None:
    check = simulated(load_scenario(scenario_file), measured.result, folder, scenario_file.parent)
    assert check.comparison.divergence is None
    rows = measured.result.rows
    paged = (rows["policy"] != "resident") & rows["is_stamped"]
    assert rows["misses"][paged].sum() > 50
    assert rows["prefetched"][paged].sum() > 10
    assert rows["to_host_bytes"][paged].sum() > 0
    assert check.comparison.figures["num_cells"] == 12


def test_measured_result_reads_back_and_carries_its_traces(measured: Measured, folder: Path) -> None:
    again = load_result(folder)
    assert again.summary["is_measured"]
    assert {path.name for path in folder.glob("*.kvtrace")} == set(measured.traces)
    cell = next(cell for cell in again.summary["cells"] if cell["policy"] == "lru")
    assert 0 < cell["mass_recall_frac"] < 1
    assert cell["kl_mean_nats"] > 0
    assert len(cell["tpot_repeats_s"]) == 2


def test_stream_reads_everything_and_agrees_with_its_simulation(scenario_file: Path, tmp_path: Path) -> None:
    options = ['run.policies=["resident", "stream"]', "budget.context_frac=[0.8, 0.95]", "run.batch=[1, 2]"]
    measured = agreed(scenario_file, tmp_path, *options)
    stream = next(cell for cell in measured.result.summary["cells"] if cell["policy"] == "stream")
    assert stream["mass_recall_frac"] == 1.0
    assert stream["prefetched"] > 0


@pytest.mark.parametrize("channel", ["estimate:quest", "estimate:cuboid-mean", "speculate:next-layer"])
def test_what_a_layer_predicts_of_the_next_is_the_same_measured_and_simulated(
    scenario_file: Path, tmp_path: Path, channel: str
) -> None:
    options = ['run.policies=["resident", "tests.speculative:Speculative"]', f'selector.channel="{channel}"']
    measured = agreed(scenario_file, tmp_path, *options, "measure.repeats=1", "budget.context_frac=0.6")
    rows = measured.result.rows
    foreseeing = (rows["policy"] != "resident") & rows["is_stamped"]
    assert rows["prefetched"][foreseeing].sum() > 50
    assert rows["used"][foreseeing].sum() > 10
    for trace in map(open_trace, tmp_path.rglob("*.kvtrace")):
        for layer in range(trace.num_layers):
            total = trace.scores(3, layer, "speculate:next-layer", 16).astype(np.float64).sum(axis=1)
            np.testing.assert_allclose(total, 0.0 if layer == 0 else 1.0, atol=0.01)


def test_parts_of_an_instrumented_step_add_up_to_it(measured: Measured) -> None:
    rows = measured.result.rows
    stamped = rows["is_stamped"]
    names = ("embed", "attention_input", "select", "attention", "attention_output", "head", "stall", "host")
    parts = sum(rows[f"{name}_s"][stamped] for name in names)
    assert np.median(np.abs(parts / rows["step_s"][stamped] - 1)) < 0.05
    assert np.isnan(rows["stall_s"][~stamped]).all()


def test_policy_that_decides_otherwise_in_one_back_end_is_found_at_its_first_step(
    scenario_file: Path, measured: Measured, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = Paged.decide

    def swapped(self: Paged, view: Any) -> Any:
        plan = decide(self, view)
        if view.step == 5 and view.layer == 1 and plan.victims.size:
            others = np.flatnonzero(view.evictable)
            others = others[~np.isin(others, plan.victims)]
            if others.size:
                plan.victims[0] = others[-1]
        return plan

    monkeypatch.setattr(Paged, "decide", swapped)
    monkeypatch.setattr("kvsim.sim.simulation.can_run", lambda _: False)  # whole steps are compiled: nothing to swap
    check = simulated(load_scenario(scenario_file), measured.result, folder, scenario_file.parent)
    found = check.comparison.divergence
    assert found is not None
    assert (found.policy, found.step, found.column) == ("lru", 5, "digest")
    assert not check.comparison.figures["counts_equal"]
    lines = verdict_lines(check.comparison.figures)
    assert "counts equal: NO (target: yes): MISSED" in lines
    assert lines[-1].startswith("targets met: ") and "; missed: counts equal" in lines[-1]


@pytest.mark.parametrize("column", COUNTED)
def test_any_count_that_differs_is_a_divergence(measured: Measured, column: str) -> None:
    rows = {name: values.copy() for name, values in measured.result.rows.items()}
    rows[column][np.flatnonzero(rows["is_stamped"])[7]] += 1
    assert first_divergence(measured.result.rows, measured.result.rows) is None
    found = first_divergence(rows, measured.result.rows)
    assert found is not None
    assert found.column == column
    assert found.step == 7


def test_results_of_other_scenarios_are_not_compared(measured: Measured) -> None:
    other = RunResult(
        summary=measured.result.summary | {"is_measured": False, "scenario_hash": "x"},
        rows=measured.result.rows,
        manifest={},
    )
    with pytest.raises(ResultError, match="different scenarios"):
        compare(other, measured.result)
    with pytest.raises(ResultError, match="was simulated"):
        compare(measured.result, other)


def test_trace_of_another_selector_is_not_replayed(scenario_file: Path, measured: Measured, folder: Path) -> None:
    scenario = load_scenario(scenario_file, ["selector.k_pages=4"])
    with pytest.raises(TraceError, match="recorded under another selector"):
        simulated(scenario, measured.result, folder, scenario_file.parent)
    assert trace_name(scenario) not in measured.traces


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("measure.prompt_tokens=700", "has 600 tokens"),
        ("measure.text=none.txt", "cannot read the text"),
        ("model.path=nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(scenario_file: Path, override: str, complaint: str) -> None:
    with pytest.raises(KvsimError, match=complaint) as caught:
        measure(load_scenario(scenario_file, [override]), scenario_file)
    assert "\n" not in str(caught.value)


def test_offloaded_cache_of_transformers_stands_beside_the_policies_and_compares_with_resident(
    scenario_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that offloads nothing stands in: the real one needs a GPU."""
    monkeypatch.setattr("kvsim.experiments.decode.engine.inputs.check_peer", lambda cell: None)
    monkeypatch.setattr(
        "kvsim.experiments.decode.engine.bench.offloaded_cache", lambda model: DynamicCache(config=model.config)
    )
    options = ['run.policies=["resident", "hf-offloaded"]', "budget.context_frac=0.6", "run.batch=2"]
    result = measure(load_scenario(scenario_file, options), scenario_file).result
    cell = next(cell for cell in result.summary["cells"] if cell["policy"] == "hf-offloaded")
    assert cell["speed_vs_resident"] > 0.2
    assert len(cell["tpot_repeats_s"]) == 2
    assert cell["mass_recall_frac"] == 1.0
    assert [cell[name] for name in ("budget_pages", "hit_frac", "stall_frac", "kl_mean_nats")] == [None] * 4
    resident = next(cell for cell in result.summary["cells"] if cell["policy"] == "resident")
    assert cell["kv_device_bytes"] == pytest.approx(2 / 3 * resident["kv_device_bytes"], rel=0.05)
    assert cell["host_bytes"] == resident["kv_device_bytes"]


def test_packed_weights_are_loaded_as_the_scenario_says_and_need_a_profile_of_such(
    scenario_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever packs is stood in for: which model each cell ran on is what is asked here."""
    loaded: list[Any] = []
    load = runs.load_model

    def load_model(path: Any, dtype: Any, device: str, *, quantisation: Any) -> Any:
        loaded.append(quantisation)
        return load(path, dtype, device)

    monkeypatch.setattr(runs, "load_model", load_model)
    options = ['run.policies=["resident"]', "budget.context_frac=1.0", "run.batch=1", "measure.repeats=1"]
    packed = [*options, 'model.quantisation=["4bit", "8bit"]']
    with pytest.raises(ScenarioError, match=r"made with unpacked weights, the scenario has 4bit ones; calibrate"):
        measure(load_scenario(scenario_file, packed), scenario_file)
    measured = measure(load_scenario(scenario_file, [*packed, "profile.allow_other_shape=true"]), scenario_file)
    assert loaded == ["4bit", "8bit"]
    assert [cell["model.quantisation"] for cell in measured.result.summary["cells"]] == ["4bit", "8bit"]
    assert sorted(name.rpartition("-")[2] for name in measured.traces) == ["4bit.kvtrace", "8bit.kvtrace"]
    weights = [cell["weights_bytes"] for cell in measured.result.summary["cells"]]
    assert (
        weights[0] < weights[1] < read_shape(Path(load_scenario(scenario_file).model.path or ""), "fp32").weights_bytes
    )


def test_offloaded_cache_is_refused_on_a_cpu_and_by_the_simulator(scenario_file: Path) -> None:
    scenario = load_scenario(scenario_file, ['run.policies=["resident", "hf-offloaded"]', "budget.context_frac=0.6"])
    with pytest.raises(ScenarioError, match=r"^tiny: policy 'hf-offloaded' .* needs a CUDA device; profile 'test'"):
        measure(scenario, scenario_file)
    with pytest.raises(ScenarioError, match="a peer to measure, not a policy"):
        check_simulated(scenario)
    with pytest.raises(ScenarioError, match="a peer to measure, not a policy"):
        grid = PageGrid(num_sequences=1, num_layers=3, pages_per_layer=8)
        setting = Setting(grid=grid, capacity_pages=24, partition="shared", prefetch_quota_pages=4, seed=0)
        make_policy("hf-offloaded", setting, {})


def test_scenario_without_measure_table_says_what_is_missing(scenario_file: Path, tmp_path: Path) -> None:
    text = scenario_file.read_text()
    bare = tmp_path / "bare.toml"
    bare.write_text(text[: text.index("[measure]")] + text[text.index("[sweep]") :])
    with pytest.raises(ScenarioError, match=r"no \[measure\] table"):
        measure(load_scenario(bare), scenario_file)


def test_profile_is_never_fitted_on_the_runs_it_predicts(scenario_file: Path, measured: Measured, folder: Path) -> None:
    """Separation: simulating leaves the profile as it was, and takes nothing from the measured times."""
    before = (scenario_file.parent / "p.toml").read_bytes()
    first = simulated(load_scenario(scenario_file), measured.result, folder, scenario_file.parent)
    slower = RunResult(
        summary=measured.result.summary,
        rows=measured.result.rows | {"step_s": 10 * measured.result.rows["step_s"]},
        manifest=measured.result.manifest,
    )
    again = simulated(load_scenario(scenario_file), slower, folder, scenario_file.parent)
    assert first.simulated.summary["cells"] == again.simulated.summary["cells"]
    assert (scenario_file.parent / "p.toml").read_bytes() == before


def test_texts_that_ship_with_python_are_long_enough_for_8k_tokens() -> None:
    assert len(read_text("python-docs")) > 400_000
    assert len(read_text("python-code")) > 200_000


@pytest.mark.model
def test_quick_crosscheck_on_the_trained_model_has_equal_counts(model_path: Path, tmp_path: Path) -> None:
    path = find_scenario("crosscheck_quick")
    options = ["measure.num_steps=8", "measure.repeats=1", f'model.path="{model_path}"', "run.warmup_steps=2"]
    scenario = load_scenario(path, options)
    measured = measure(scenario, path)
    folder = write_result(measured.result, tmp_path, measured.traces)
    check = simulated(scenario, measured.result, folder, path.parent)
    assert check.comparison.divergence is None
    assert check.comparison.figures["num_cells"] == 8
    # a bound that a broken time model cannot keep, wide enough for a machine ten times as busy
    assert check.comparison.figures["tpot_median_error_frac"] < 0.9


def test_bounds_prefetchers_and_dropping_by_place_are_measured_as_they_are_simulated(
    scenario_file: Path, tmp_path: Path
) -> None:
    policies = (
        '[{name = "belady", arguments = {prefetch = "oracle-prefetch"}}, '
        '{name = "lru", arguments = {prefetch = "previous-step", reach_frac = 1.5}}, "sink-window"]'
    )
    text = scenario_file.read_text().replace('["resident", "lru", "attention"]', policies).partition("[sweep]")[0]
    file = scenario_file.with_name("parts.toml")
    file.write_text(text.replace("repeats = 2", "repeats = 1"))
    found = agreed(file, tmp_path)
    oracle, _, dropping = found.result.summary["cells"]
    assert oracle["prefetch_precision_frac"] == 1.0
    assert 0 < dropping["mass_recall_frac"] < 1
    rows = found.result.rows
    assert not rows["misses"][rows["policy"] == "sink-window"].any()
    assert rows["prefetched"][rows["policy"] == "lru"].any()


def test_dropping_by_scores_is_not_measured_and_the_line_says_why(scenario_file: Path) -> None:
    scenario = load_scenario(scenario_file, ["run.policies=h2o"])
    with pytest.raises(ScenarioError, match="'h2o' drops pages by scores"):
        measure(scenario, scenario_file)
