"""Batches whose sequences differ in length: the engine and the simulator agree on every count of every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from transformers import DynamicCache

from kvsim.errors import ScenarioError, TraceError
from kvsim.experiments.decode.cells import measured_extent
from kvsim.experiments.decode.crosscheck import accesses_in
from kvsim.report.results import write_result
from kvsim.scenario.decode import load_scenario
from kvsim.traces import open_trace
from tests.cli.typed import refusal
from tests.engine.families.models import WINDOW_TOKENS, tiny_model_of
from tests.experiments.decode.measured import agreed, measure, written
from tests.experiments.decode.measured import scenario_file as scenario_file

PROMPTS = (150, 106, 20)
"""Each fills a page at a step of its own."""
UNEQUAL = ("run.batch=3", f"measure.prompt_tokens={[*PROMPTS]}", "measure.repeats=1")


@pytest.fixture(scope="module")
def windowed_file(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scenario of a model half of whose layers have a sliding window, longer than the shortest prompt."""
    folder = tmp_path_factory.mktemp("windowed")
    tiny_model_of("gemma3_text").save_pretrained(folder / "model")
    tiny_tokenizer.save_pretrained(folder / "model")
    return written(folder, folder / "model")


@pytest.mark.parametrize("file", ["scenario_file", "windowed_file"])
def test_prompts_of_unequal_length_count_alike_in_simulator_and_engine(
    file: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert min(PROMPTS) < WINDOW_TOKENS
    policies = 'run.policies=["resident", "lru", "attention", "sieve"]'
    found = agreed(request.getfixturevalue(file), tmp_path, *UNEQUAL, policies, "budget.context_frac=[0.35, 0.6]")
    rows = found.result.rows
    paged = (rows["policy"] != "resident") & rows["is_stamped"]
    assert rows["misses"][paged].sum() > 50 and rows["prefetched"][paged].sum() > 3
    (trace,) = (open_trace(path) for path in tmp_path.rglob("*.kvtrace"))
    assert trace.header.prompt_tokens == PROMPTS
    for step in range(trace.num_steps):
        assert trace.context_tokens(step).tolist() == [tokens + 1 + step for tokens in PROMPTS]
        mass = trace.mass(step, 0, 16).astype(np.float64)
        np.testing.assert_allclose(mass.sum(axis=1), 1, atol=0.01)  # of its own pages, and nothing beyond them
        pages = [-(-tokens // 16) for tokens in trace.context_tokens(step).tolist()]
        assert not any(own[count:].any() for own, count in zip(mass, pages, strict=True))
    lru = rows["is_stamped"] & (rows["policy"] == "lru") & (rows["cell"] == rows["cell"][rows["policy"] == "lru"][0])
    written_back = np.flatnonzero(rows["to_host_bytes"][lru])
    filling = [step for step in range(14) if any((tokens + 1 + step) % 16 == 0 for tokens in PROMPTS)]
    assert written_back.tolist() == filling == [5, 9, 11]


def test_everything_read_counts_alike_and_so_do_several_devices(scenario_file: Path, tmp_path: Path) -> None:
    full = ('selector.name="full"', "budget.context_frac=0.8", 'run.policies=["resident", "lru", "stream"]')
    rows = agreed(scenario_file, tmp_path / "full", *UNEQUAL, *full).result.rows
    first = rows["selected"][(rows["step"] == 0) & rows["is_stamped"]]
    assert set(first.tolist()) == {3 * sum(-(-(tokens + 1) // 16) for tokens in PROMPTS)}
    devices = ("run.devices=2", 'run.policies=["lru", "attention", "sink-window"]', "budget.context_frac=0.6")
    agreed(scenario_file, tmp_path / "devices", *UNEQUAL, *devices)


def test_what_a_layer_predicts_counts_alike(scenario_file: Path, tmp_path: Path) -> None:
    options = ('selector.channel="speculate:next-layer"', "budget.context_frac=0.6")
    policies = 'run.policies=["belady", "tests.speculative:Speculative"]'
    rows = agreed(scenario_file, tmp_path, *UNEQUAL, *options, policies).result.rows
    assert rows["prefetched"].sum() > 5


@pytest.mark.parametrize("steps", ["[3, 14, 9]", "[14, 3, 9]"])
def test_prompts_of_unequal_length_may_also_end_at_different_steps(
    scenario_file: Path, tmp_path: Path, steps: str
) -> None:
    """The longest prompt ends first, or last."""
    options = (f"measure.sequence_steps={steps}", "budget.context_frac=[0.35, 0.6]", "run.policies=lru,attention")
    found = agreed(scenario_file, tmp_path, *UNEQUAL, *options)
    longest = max(tokens + own for tokens, own in zip(PROMPTS, json.loads(steps), strict=True))
    assert {cell["context_tokens"] for cell in found.result.summary["cells"]} == {longest}


def test_lengths_are_swept_as_lists_or_as_one_number_for_all(scenario_file: Path, tmp_path: Path) -> None:
    options = ("run.batch=2", "measure.repeats=1", "budget.context_frac=0.6", "run.policies=lru")
    found = agreed(scenario_file, tmp_path, *options, "measure.prompt_tokens=[[150, 40], [40, 150], [90, 90]]")
    cells = found.result.summary["cells"]
    assert [cell["measure.prompt_tokens"] for cell in cells] == ["150, 40", "40, 150", "90, 90"]
    assert len(found.traces) == 3
    mixed = load_scenario(scenario_file, [*options, "sweep.measure.prompt_tokens=[90, [150, 40]]"])
    assert [measured_extent(cell, None).context_tokens for cell in mixed.cells] == [104, 164]  # type: ignore[arg-type]
    same = load_scenario(scenario_file, [*options, "measure.prompt_tokens=[90, 90]"])
    alike = load_scenario(scenario_file, [*options, "measure.prompt_tokens=90"])
    assert np.array_equal(*(measure(one, scenario_file).result.rows["digest"] for one in (same, alike)))


def test_offloaded_cache_of_transformers_decodes_them_too(scenario_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvsim.experiments.decode.engine.inputs.check_peer", lambda cell: None)
    monkeypatch.setattr(
        "kvsim.experiments.decode.engine.bench.offloaded_cache", lambda model: DynamicCache(config=model.config)
    )
    options = ['run.policies=["hf-offloaded"]', "budget.context_frac=0.6", *UNEQUAL]
    rows = measure(load_scenario(scenario_file, options), scenario_file).result.rows
    pages = [3 * sum(-(-(tokens + 1 + step) // 16) for tokens in PROMPTS) for step in range(14)]
    assert rows["selected"][rows["is_stamped"]].tolist() == pages


def test_accesses_of_other_lengths_are_not_replayed(scenario_file: Path, tmp_path: Path) -> None:
    common = ["run.policies=lru", "budget.context_frac=0.6", "measure.repeats=1", "run.batch=2"]
    found = measure(load_scenario(scenario_file, [*common, "measure.prompt_tokens=[150, 40]"]), scenario_file)
    folder = write_result(found.result, tmp_path, found.traces)
    for lengths in ("[40, 150]", "150"):
        scenario = load_scenario(scenario_file, [*common, f"measure.prompt_tokens={lengths}"])
        shown = lengths.strip("[]")
        with pytest.raises(TraceError, match=f"no accesses for {shown} tokens of prompt: .* has 150, 40$"):
            accesses_in(folder)(scenario)


@pytest.mark.parametrize(
    ("lengths", "complaint"),
    [
        ("[150, 90]", "measure.prompt_tokens has 2 numbers for run.batch = 3; give one for each sequence"),
        ("[500, 10, 10]", "measure.prompt_tokens and measure.num_steps: 514"),
        ("[400, 200, 100]", "has 600 tokens; 3 sequences of 400, 200, 100 and 14 steps need 742"),
        ("[150, 0, 20]", "measure.prompt_tokens.1: should be greater than 0"),
        ("[]", "measure.prompt_tokens: "),
        ("long", "measure.prompt_tokens"),
    ],
)
def test_lengths_that_cannot_be_measured_are_refused_in_a_line(
    scenario_file: Path, lengths: str, complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("run.batch=3", "run.policies=lru", "budget.context_frac=0.6", f"measure.prompt_tokens={lengths}")
    arguments = [part for option in options for part in ("--set", option)]
    assert complaint in refusal(capsys, "measure", str(scenario_file), *arguments, "-o", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_sequences_that_end_at_different_steps_count_alike_in_simulator_and_engine(
    scenario_file: Path, tmp_path: Path
) -> None:
    overrides = ["run.batch=3", "measure.sequence_steps=[14, 5, 11]", "budget.context_frac=[0.35, 0.6]"]
    overrides += ["measure.prompt_tokens=120", "measure.repeats=1"]
    with pytest.raises(ScenarioError, match="sequence_steps: the largest is 14, should be num_steps, 20"):
        load_scenario(scenario_file, [*overrides, "measure.num_steps=20"])
    full = ['selector.name="full"', "budget.context_frac=0.8", 'run.policies=["lru", "stream", "sink-window"]']
    for place, others in enumerate((['run.policies=["resident", "lru", "attention", "sieve"]'], full)):
        rows = agreed(scenario_file, tmp_path / str(place), *overrides, *others).result.rows
        lru = (rows["policy"] == "lru") & (rows["cell"] == rows["cell"][rows["policy"] == "lru"].min())
        selected = rows["selected"][lru & rows["is_stamped"]]
        assert selected[4] > selected[5] > 0 and selected[10] > selected[11] > 0
        assert rows["to_device_bytes"].sum() > 0 and rows["to_host_bytes"].sum() > 0
