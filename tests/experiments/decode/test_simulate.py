"""A scenario simulated as a whole: equal bytes, equal however shared out, refused where it cannot fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kvsim.experiments.decode.simulate
from kvsim.errors import CapacityError, KvsimError, ScenarioError
from kvsim.experiments.decode.simulate import check, simulate
from kvsim.experiments.types import Job
from kvsim.report.results import summary_json
from kvsim.scenario.decode import Scenario, load_scenario
from kvsim.scenario.shipped import find_scenario
from kvsim.types import pages_of
from tests.experiments.decode.small import made

SMALL = ["trace.num_steps=10", "run.warmup_steps=2", "budget.context_frac=[0.2, 0.5]"]


def shipped(*options: str) -> tuple[Scenario, Path]:
    path = find_scenario("smollm2_cpu")
    return load_scenario(path, [*SMALL, *options]), path.parent


def test_same_scenario_gives_a_byte_identical_summary() -> None:
    first, second = (made(*SMALL) for _ in range(2))
    assert summary_json(first.summary) == summary_json(second.summary)
    assert first.summary["scenario_hash"] == shipped()[0].hash


def test_processes_find_what_one_process_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = made(*SMALL)
    monkeypatch.setattr(kvsim.experiments.decode.simulate, "MIN_DECISIONS_FOR_PROCESSES", 0)
    monkeypatch.setattr(kvsim.experiments.decode.simulate.os, "cpu_count", lambda: 2)
    shared = made(*SMALL)
    assert summary_json(alone.summary) == summary_json(shared.summary)
    for name, column in alone.rows.items():
        np.testing.assert_array_equal(column, shared.rows[name])


def test_cells_say_what_the_contract_names() -> None:
    summary = made(*SMALL).summary
    names = {"policy", "budget_pages", "tpot_p50_s", "tpot_p95_s", "tokens_per_s", "speed_vs_resident", "stall_frac"}
    names |= {"hit_frac", "prefetch_precision_frac", "prefetch_recall_frac", "moved_bytes", "device_bytes"}
    names |= {"mass_recall_frac", "budget.context_frac"}
    for cell in summary["cells"]:
        assert names <= set(cell)
    cells = {(cell["policy"], cell["budget.context_frac"]): cell for cell in summary["cells"]}
    assert cells["resident", 0.2]["hit_frac"] is None
    assert cells["resident", 0.2]["budget_pages"] is None
    assert cells["resident", 0.2]["speed_vs_resident"] == 1.0
    assert cells["stream", 0.5]["mass_recall_frac"] == 1.0
    assert cells["lru", 0.2]["mass_recall_frac"] < 1.0
    assert cells["lru", 0.5]["hit_frac"] > cells["lru", 0.2]["hit_frac"]
    assert cells["lru", 0.5]["speed_vs_resident"] > cells["lru", 0.2]["speed_vs_resident"]


def test_repetitions_are_counted_once_each() -> None:
    rows = made(*SMALL, "run.repetitions=3", "run.policies=lru", "budget.context_frac=0.3").rows
    assert sorted(set(rows["repetition"].tolist())) == [0, 1, 2]
    assert rows["step"].size == 30


def test_batch_replays_one_trace_for_every_sequence() -> None:
    one, three = (
        made(*SMALL, "run.policies=lru", "budget.context_frac=0.3", f"run.batch={batch}").summary["cells"][0]
        for batch in (1, 3)
    )
    assert three["hits"] + three["misses"] == 3 * (one["hits"] + one["misses"])
    assert three["tokens_per_s"] > one["tokens_per_s"]


def test_budget_below_the_minimum_names_it_and_the_minimum_runs() -> None:
    scenario, base_dir = shipped("run.policies=stream", "budget.context_frac=0.02")
    with pytest.raises(KvsimError, match=r"set budget.pages_per_layer to at least \d+") as caught:
        check(scenario, base_dir)
    least = int(str(caught.value).rsplit(" ", 1)[-1])
    stream = (*SMALL, "run.policies=stream", "budget.context_frac=0.5")
    few, more = (made(*stream, f"budget.pages_per_layer={n}").summary["cells"][0] for n in (least, 2 * least))
    assert few["misses"] + few["prefetched"] > more["misses"] + more["prefetched"] > 0
    assert few["hits"] + few["misses"] == more["hits"] + more["misses"] > 0
    with pytest.raises(CapacityError):
        made(*stream, f"budget.pages_per_layer={least - 1}")


def test_trace_of_another_depth_is_refused_unless_extrapolation_is_asked_for() -> None:
    path = find_scenario("long_context")
    scenario = load_scenario(
        path, ["trace.num_steps=10", "run.warmup_steps=2", "trace.extrapolate.context_tokens=8192"]
    )
    asked = simulate(scenario, Job(base_dir=path.parent))
    assert any("extrapolated" in line for line in asked.summary["verdict"])
    bare = scenario.model_copy(update={"trace": scenario.trace.model_copy(update={"extrapolate": None}), "sweep": {}})
    with pytest.raises(ScenarioError, match=r"30 layers, the model shape 32.*\[trace.extrapolate\]"):
        simulate(bare, Job(base_dir=path.parent))


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("profile.path=h200-llama-3-8b-published", "made for another model shape"),
        ("trace.num_steps=1000", "has 128"),
    ],
)
def test_profile_of_another_shape_and_more_steps_than_the_trace_has_are_refused(option: str, complaint: str) -> None:
    scenario, base_dir = shipped(option)
    with pytest.raises(ScenarioError, match=complaint):
        check(scenario, base_dir)


def test_generated_sequences_have_lengths_and_ends_of_their_own() -> None:
    lengths = ["trace.extrapolate.sequence_tokens=[1024, 700]", "trace.extrapolate.sequence_steps=[12, 6]"]
    small = ["trace.num_steps=12", "run.warmup_steps=2", "run.batch=3", "run.policies=lru", "budget.context_frac=0.5"]
    result = made(*small, *lengths, "trace.extrapolate.context_tokens=1024", 'selector.name="full"')
    page_tokens = load_scenario(find_scenario("smollm2_cpu"), small).page_tokens
    pages = [
        2 * pages_of(1024 + step, page_tokens) + (step < 6) * pages_of(700 + step, page_tokens) for step in range(12)
    ]
    assert result.rows["selected"].tolist() == [30 * count for count in pages]
    with pytest.raises(ScenarioError, match="sequence_tokens: 1024 is above context_tokens, 900, which is the longest"):
        made(*small, *lengths, "trace.extrapolate.context_tokens=900")
    with pytest.raises(ScenarioError, match=r"ends the last sequence after 8 of 12 steps; set trace.num_steps to 8"):
        made(*small, "trace.extrapolate.context_tokens=1024", "trace.extrapolate.sequence_steps=[8, 6]")
