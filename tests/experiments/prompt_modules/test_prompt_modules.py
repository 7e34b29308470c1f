"""Scenarios of prompt modules: counts equal, times from the tables, the price told, and bad input in one line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from kvsim.errors import CalibrationError, CapacityError, KvsimError, ResultError, ScenarioError
from kvsim.experiments.prompt_modules.case import case_of, requests_of, source_of
from kvsim.experiments.prompt_modules.engine.divergence import divergence_of
from kvsim.experiments.prompt_modules.lengths import lengths_of
from kvsim.experiments.prompt_modules.scenario import Stream
from kvsim.experiments.registry import compare_results, load_experiment
from kvsim.profile.profile import load_profile, write_profile
from kvsim.profile.tables import CostTable
from kvsim.report.results import RunResult
from kvsim.scenario.shipped import shipped_folder
from tests.experiments.named import load_named
from tests.experiments.running import check, measure, refused, simulate
from tests.experiments.tiny import forward_table, write_tiny

SCHEMA = """<schema name="trip">
  You plan trips for people who like trains and walks.
  <module name="plan">They stay <parameter name="days" length="8"/> days.
    <union>
      <module name="city">Museums, trams and a market on Sundays.</module>
      <module name="coast">Sun and sand.</module>
    </union>
  </module>
  <module name="budget">They would rather spend little.</module>
  <scaffold modules="plan budget"/>
</schema>"""
PROMPTS = """<prompts schema="trip">
  <prompt name="where"><budget/><plan days="three"><city/></plan>Where should they go first?</prompt>
  <prompt name="how"><plan days="ten"><coast/></plan>How do they get there?</prompt>
  <prompt name="alone">What is a trip?</prompt>
</prompts>"""
SCENARIO = """
schema_version = 1
kind = "prompt-modules"
name = "tiny"
{ground}
[prompts]
schema_file = "s.xml"
prompts_file = "p.xml"
closing = "!"
[stream]
num_requests = 8
draw = "zipf"
[encoding]
[cache]
[measure]
repeats = 1
answer_tokens = 3
[sweep]
"cache.tier" = ["device", "host"]
"cache.budget_modules" = [2, 5]
"encoding.scaffolds" = [false, true]
"""


def table(time_s: float) -> CostTable:
    return CostTable(amount="tokens", amounts=(1.0, 201.0), time_s=((time_s,), (2 * time_s,)))


TABLES = {"restore.device": table(1e-4), "restore.host": table(3e-3), "store.device": table(2e-4)}


@pytest.fixture(scope="module")
def scenario_file(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompt_modules")
    file = folder / "tiny.toml"
    ground = write_tiny(tiny_model_path, folder, TABLES, prefill=forward_table())
    file.write_text(SCENARIO.format(ground=ground))
    (folder / "s.xml").write_text(SCHEMA)
    (folder / "p.xml").write_text(PROMPTS)
    return file


@pytest.fixture(scope="module")
def simulated(scenario_file: Path) -> RunResult:
    return simulate(scenario_file)


@pytest.fixture(scope="module")
def measured(scenario_file: Path) -> tuple[RunResult, dict[str, bytes]]:
    return measure(scenario_file)


def loaded(scenario_file: Path, *overrides: str):
    return load_named(scenario_file, overrides)[1]


def test_counts_of_the_engine_are_those_of_the_simulator(simulated, measured) -> None:
    compared = compare_results(simulated, measured[0])
    assert compared.contents["counts_equal"], compared.contents.get("divergence")
    assert compared.contents["requests_equal"]
    assert len(compared.contents["cells"]) == 8
    assert len(compared.contents["prompts"]) == 3 * 2 * 2  # prompts, tiers, with and without scaffolds
    assert "counts equal: yes" in compared.text and "KL" in compared.text
    assert {f"compare.{kind}" for kind in ("csv", "json", "parquet", "png")} == set(compared.files)
    assert any(cell["evictions"] for cell in measured[0].summary["cells"])


def test_a_count_that_differs_is_told(simulated, measured) -> None:
    result = measured[0]
    cells = [dict(cell) for cell in result.summary["cells"]]
    cells[3]["peak_bytes"] += 1
    contents = compare_results(simulated, replace(result, summary=result.summary | {"cells": cells})).contents
    assert str(contents["divergence"]).startswith("cell 3: peak_bytes is ")
    rows = result.rows | {"hits": result.rows["hits"] + np.eye(result.rows["hits"].size, dtype=int)[0]}
    assert not compare_results(simulated, replace(result, rows=rows)).contents["requests_equal"]


def test_results_of_other_prompts_are_not_compared(simulated, measured) -> None:
    result = measured[0]
    prompts = [prompt | {"reused_tokens": 1} for prompt in result.summary["prompts"]]
    with pytest.raises(ResultError, match="prompt 'where' is another one"):
        compare_results(simulated, replace(result, summary=result.summary | {"prompts": prompts}))


def test_every_prompt_has_a_price_and_one_that_is_read_like_full_attention_has_none(measured) -> None:
    result, files = measured
    for prompt in result.summary["prompts"]:
        assert prompt["kl_first_nats"] >= -1e-9 and prompt["kl_mean_nats"] >= -1e-9
        assert 0 <= prompt["greedy_agreement_frac"] <= 1
        assert prompt["tokens"] == prompt["reused_tokens"] + prompt["fresh_tokens"]
    price = {prompt["prompt"]: prompt["kl_mean_nats"] for prompt in result.summary["prompts"]}
    # one text before the question, no gap and no other module: what full attention reads
    assert price["alone"] < 1e-6 < price["where"]
    assert files["answers.txt"].decode().count("full attention:") == 3 * 2
    assert json.loads(files["lengths.json"])["tokens"]


def test_divergence_is_that_of_its_formula() -> None:
    right, found = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]]), torch.tensor([[2.0, 1.0, 0.5], [0.0, 0.5, 2.0]])
    p, q = (logits.softmax(-1).tolist() for logits in (right, found))
    kl = [sum(a * math.log(a / b) for a, b in zip(*rows, strict=True)) for rows in zip(p, q, strict=True)]
    lost = divergence_of(right, found)
    assert (lost.kl_first_nats, lost.kl_mean_nats) == pytest.approx((kl[0], sum(kl) / 2), rel=1e-6)
    assert (lost.greedy_agreement_frac, lost.first_token_same) == (0.5, False)


def test_times_are_those_of_the_tables(scenario_file: Path) -> None:
    overrides = ['cache.tier="host"', "cache.budget_modules=5", "encoding.scaffolds=false", "stream.num_requests=3"]
    overrides.append('stream.draw="in-turn"')
    scenario = loaded(scenario_file, *overrides)
    source = source_of(scenario, scenario_file.parent)
    case = case_of(scenario, source, lengths_of(scenario, source, scenario_file.parent))
    rows = simulate(scenario_file, *overrides).rows
    forward, store, restore = forward_table(), TABLES["store.device"], TABLES["restore.host"]
    seen: set[int] = set()
    for assembly, ttft_s, full_s in zip(case.assemblies, rows["ttft_s"], rows["ttft_full_s"], strict=True):
        new = [case.layout.units[unit].num_tokens for unit in assembly.units if unit not in seen]
        stored = sum(part.stop - part.start for part in assembly.parts if part.unit in seen)
        expected_s = sum(forward.at_s(tokens, cached_tokens=0) + store.at_s(tokens) for tokens in new)
        expected_s += restore.at_s(stored) if stored else 0.0
        is_joined = len(assembly.parts) > 1 and stored < assembly.reused_tokens
        expected_s += store.at_s(assembly.reused_tokens) if is_joined else 0.0
        expected_s += forward.at_s(assembly.fresh_tokens, cached_tokens=assembly.reused_tokens)
        assert ttft_s == pytest.approx(expected_s, rel=1e-12)
        assert full_s == pytest.approx(forward.at_s(assembly.num_tokens, cached_tokens=0), rel=1e-12)
        seen |= set(assembly.units)


def test_prompts_longer_than_what_was_measured_are_told(scenario_file: Path) -> None:
    profile = load_profile(scenario_file.parent / "p.toml")
    short = profile.model_copy(
        update={"caches": TABLES | {"restore.host": table(3e-3).model_copy(update={"amounts": (1.0, 2.0)})}}
    )
    write_profile(short, scenario_file.parent / "short.toml")
    overrides = ["profile.path=short.toml", "encoding.scaffolds=false", "cache.budget_modules=5"]
    summary = simulate(scenario_file, *overrides).summary
    assert [cell["ttft_outside_frac"] for cell in summary["cells"]] == [0.0, 1.0]
    shown = load_experiment("prompt-modules").show(summary)
    assert "100.0% of the requests have prompts longer than the profile measured" in shown


def test_a_larger_budget_never_hits_less_and_equal_runs_are_equal(scenario_file: Path) -> None:
    overrides = ["cache.budget_modules=[1,2,3,4]", "stream.num_requests=60", "cache.tier=device"]
    first, second = (simulate(scenario_file, *overrides) for _ in range(2))
    assert first.summary == second.summary
    for folds in (False, True):
        hits = [cell["module_hits"] for cell in first.summary["cells"] if cell["scaffolds"] is folds]
        assert hits == sorted(hits)
    assert all(cell["module_hit_frac"] <= cell["bound_hit_frac"] for cell in first.summary["cells"])


def test_budgets_in_modules_shares_and_bytes_mean_what_they_say(scenario_file: Path) -> None:
    token_bytes = 3 * 2 * 2 * 16 * 4
    found = {}
    for override in ("cache.budget_frac=0.5", "cache.budget_bytes=100000", "cache.budget_modules=99"):
        result = simulate(scenario_file, override, "cache.tier=device", "encoding.scaffolds=false")
        (found[override],) = result.summary["cells"]
    largest = len("You plan trips for people who like trains and walks.\n")
    assert found["cache.budget_frac=0.5"]["budget_modules"] == round(0.5 * 5)
    assert found["cache.budget_bytes=100000"]["budget_modules"] == 100_000 // (token_bytes * largest)
    assert found["cache.budget_bytes=100000"]["peak_bytes"] <= 100_000
    assert found["cache.budget_modules=99"]["budget_modules"] == 5
    with pytest.raises(CapacityError, match="the largest module has"):
        check(scenario_file, "cache.budget_bytes=10")


def test_prompts_arrive_in_turn_or_by_zipfs_law() -> None:
    assert requests_of(Stream(num_requests=5), 3).tolist() == [0, 1, 2, 0, 1]
    drawn = requests_of(Stream(num_requests=20_000, draw="zipf", skew=1.0), 3)
    shares = np.bincount(drawn, minlength=3) / drawn.size
    expected = np.array([1, 1 / 2, 1 / 3]) / (11 / 6)
    assert np.abs(shares - expected).max() < 4 * math.sqrt(0.25 / drawn.size)


@pytest.mark.parametrize(
    ("overrides", "error", "told"),
    [
        (["cache.policy=lur"], ScenarioError, "did you mean 'lru'"),
        (["cache.tier=disk"], ScenarioError, "should be 'device' or 'host'"),
        (["prompts.schema_file=none.xml"], KvsimError, "none.xml:1: cannot be read"),
        (["prompts.lengths_file=none.json"], ScenarioError, "none.json: cannot read the file of lengths"),
        (["prompts.closing=[\"a\", \"b\"]"], ScenarioError, "prompts.closing cannot be swept; all cells read one set"),
        (["model.path=nowhere"], ScenarioError, "no tokenizer"),
    ],
)  # fmt: skip
def test_what_a_scenario_cannot_mean_is_told_in_one_line(scenario_file: Path, overrides, error, told) -> None:
    with pytest.raises(error, match=told) as caught:
        check(scenario_file, *overrides)
    assert "\n" not in str(caught.value)


def test_a_schema_at_fault_stops_the_command_with_line_and_tag(scenario_file: Path, tmp_path, capsys) -> None:
    (tmp_path / "bad.xml").write_text('<schema name="trip">\n<modul name="a">x</modul></schema>')
    words = ["run", str(scenario_file), "--set", f"prompts.schema_file={tmp_path}/bad.xml", "-o", str(tmp_path)]
    assert "bad.xml:2: <modul>: unknown tag in <schema>; did you mean 'module'?" in refused(capsys, *words)


def test_a_profile_without_the_tables_is_asked_for_again(scenario_file: Path, tmp_path) -> None:
    profile = load_profile(scenario_file.parent / "p.toml")
    write_profile(profile.model_copy(update={"caches": {}}), tmp_path / "old.toml")
    with pytest.raises(CalibrationError, match=r"store\.device"):
        check(scenario_file, f"profile.path={tmp_path}/old.toml")


def test_recorded_lengths_take_the_place_of_a_tokenizer_and_wrong_ones_are_refused(
    scenario_file: Path, measured, simulated, tmp_path
) -> None:
    lengths = tmp_path / "lengths.json"
    lengths.write_bytes(measured[1]["lengths.json"])
    again = simulate(scenario_file, f"prompts.lengths_file={lengths}", "model.path=nowhere")
    assert again.summary["cells"] == simulated.summary["cells"]
    content = json.loads(lengths.read_text())
    key = next(iter(content["tokens"]))
    lengths.write_text(json.dumps(content | {"tokens": content["tokens"] | {key: 1}}))
    with pytest.raises(ScenarioError, match=r"tokens there, .* by the model's tokenizer"):
        measure(scenario_file, f"prompts.lengths_file={lengths}")
    lengths.write_text(json.dumps({"tokens": {}}))
    with pytest.raises(ScenarioError, match="has no length of the text"):
        check(scenario_file, f"prompts.lengths_file={lengths}")
    lengths.write_text('{"tokens": {"a": true}}')
    with pytest.raises(ScenarioError, match="no file of lengths"):
        check(scenario_file, f"prompts.lengths_file={lengths}")


def test_table_and_pictures_show_every_cell_and_prompt(simulated, measured) -> None:
    kind = load_experiment("prompt-modules")
    for result in (simulated, measured[0]):
        text = kind.show(result.summary)
        starts = [line.partition(" ")[0] for line in text.splitlines()]
        assert [starts.count(tier) for tier in ("device", "host")] == [4, 4]
        assert starts.count("where") == 4
        assert all(name in text for name in ("where", "alone", "host", "scaf-"))
        assert kind.figures(result)["prompt_modules.png"].startswith(b"\x89PNG")
    assert "The price" in kind.show(measured[0].summary) and "The price" not in kind.show(simulated.summary)


def test_a_prompt_beyond_the_models_positions_is_refused(scenario_file: Path) -> None:
    with pytest.raises(ScenarioError, match=r"and measure.answer_tokens: 678 tokens, the model reads 512"):
        measure(scenario_file, "measure.answer_tokens=500")


@pytest.mark.model
def test_the_lengths_that_ship_are_those_of_the_trained_models_tokenizer(model_path) -> None:
    folder = shipped_folder("scenarios")
    recorded, counted = (
        loaded(folder / "prompt_modules.toml", *overrides) for overrides in ((), (f'model.path="{model_path}"',))
    )
    counted = counted.model_copy(update={"prompts": counted.prompts.model_copy(update={"lengths_file": None})})
    source = source_of(recorded, folder)
    cases = [case_of(cell, source, lengths_of(cell, source, folder)) for cell in (recorded, counted)]
    assert cases[0].assemblies == cases[1].assemblies


@pytest.mark.model
def test_the_real_model_reads_what_the_simulator_says(model_path, tmp_path) -> None:
    folder = shipped_folder("scenarios")
    prompts = (folder / "kvsim_handbook.prompts.xml").read_text().split("</prompt>")[:2]
    (tmp_path / "two.xml").write_text("</prompt>".join([*prompts, "</prompts>"]))
    sets = ["cache.tier=host", "cache.policy=lru", "cache.budget_modules=4", "stream.num_requests=2"]
    sets += ["measure.repeats=1", "measure.answer_tokens=8", f'model.path="{model_path}"']
    sets.append(f'prompts.prompts_file="{tmp_path}/two.xml"')
    measured, _ = measure(folder / "prompt_modules.toml", *sets)
    found = compare_results(simulate(folder / "prompt_modules.toml", *sets), measured).contents
    assert found["counts_equal"] and found["requests_equal"]
    assert 0 < found["kl_first_mean"] < 1
    assert found["greedy_agreement_mean"] > 0.5
    assert all(prompt["speed_vs_full"] > 1 for prompt in found["prompts"])
