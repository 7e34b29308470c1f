"""Layers on several devices: counts simulated and measured are equal, and each device has a memory of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from kvsim.errors import CapacityError, ScenarioError
from kvsim.experiments.decode.max_context import max_contexts
from kvsim.experiments.decode.measure import measure_timeline
from kvsim.experiments.decode.report.table import text_table
from kvsim.experiments.types import Job
from kvsim.profile.profile import load_profile, write_profile
from kvsim.scenario.decode import load_scenario
from kvsim.scenario.models.devices import device_kv_bytes, device_weight_bytes
from kvsim.scenario.models.known import known_model
from kvsim.scenario.models.memory import kv_bytes, weight_bytes
from kvsim.scenario.models.tensors import count
from tests.experiments.decode.measured import agreed, measure
from tests.experiments.decode.measured import scenario_file as scenario_file
from tests.experiments.decode.small import SMALL, made

POLICIES = """["resident", "lru", "attention", "belady", "sink-window",
    {name="arc", label="p", arguments={prefetch="speculation"}}]"""
TWO = ("run.devices=2", "measure.repeats=1")


@pytest.mark.parametrize("layers", ["[2, 1]", "[1, 2]"])
def test_simulator_and_engine_agree_on_every_count_of_every_step(
    scenario_file: Path, tmp_path: Path, layers: str
) -> None:
    options = (*TWO, f"run.policies={POLICIES}", f"run.layers_per_device={layers}", "budget.context_frac=0.6")
    measured = agreed(scenario_file, tmp_path, *options)
    assert len(measured.result.summary["cells"]) == 12
    rows = measured.result.rows
    paged = (rows["policy"] != "resident") & rows["is_stamped"]
    assert rows["misses"][paged].sum() > 50
    assert rows["prefetched"][paged & (rows["policy"] == "p")].sum() > 10
    assert rows["to_host_bytes"][paged].sum() > 0
    assert all(len(cell["devices"]) == 2 for cell in measured.result.summary["cells"])


def test_the_table_lists_the_memory_of_each_device() -> None:
    result = made(*SMALL, "run.devices=2", "run.layers_per_device=[20, 10]", "budget.pages_per_layer=40")
    for cell in result.summary["cells"]:
        first, second = cell["devices"]
        assert (first["layers"], second["layers"]) == (20, 10)
        assert first["pages"] == 2 * second["pages"] == 800
        assert first["kv_device_bytes"] == 2 * second["kv_device_bytes"]
        assert cell["device_bytes"] == first["device_bytes"] > second["device_bytes"]
    table = text_table(result.summary)
    assert "weights" in table and table.count("stream") >= 3
    note = next(line for line in result.summary["verdict"] if "2 devices (20, 10)" in line)
    assert "has no number for the hidden state's way" in note
    assert "devices" not in made(*SMALL, "budget.pages_per_layer=20").summary["cells"][0]


def test_an_estimate_charges_the_hidden_states_way() -> None:
    options = ("profile.card=h100", "budget.pages_per_layer=60", "run.policies=resident")
    alone, split = (made(*SMALL[:2], *options, *more) for more in ((), ("run.devices=3",)))
    assert split.rows["step_s"].sum() > alone.rows["step_s"].sum()
    assert any("over the host, takes" in line for line in split.summary["verdict"])


@pytest.mark.parametrize("name", ["llama-3-8b", "qwen3-30b-a3b", "gemma-3-4b", "smollm2-135m"])
def test_bytes_of_the_devices_add_up_to_the_models(name: str) -> None:
    spec = known_model(name)
    third = len(spec.layers) // 3
    layers = (range(third), range(third, 2 * third), range(2 * third, len(spec.layers)))
    table_bytes = 2 * count([spec.table]) if spec.tied_embeddings else 0  # a table of its own for the head
    assert sum(device_weight_bytes(spec, "bf16", layers)) == weight_bytes(spec, "bf16") + table_bytes
    assert sum(device_kv_bytes(spec, 5000, "bf16", layers)) == kv_bytes(spec, 5000, "bf16")
    assert device_weight_bytes(spec, "int4", (range(len(spec.layers)),)) == (weight_bytes(spec, "int4"),)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("run.devices=4",), ScenarioError, "run.devices = 4: the model has 3 layers"),
        (("run.devices=2", "run.layers_per_device=[2, 2]"), ScenarioError, "4 layers in all, the model has 3"),
        (("run.devices=2", 'selector.channel="speculate:next-layer"'), ScenarioError, "select by an estimate"),
        (("run.devices=3", "budget.context_frac=0.1"), CapacityError, "budget"),
    ],
)
def test_devices_that_do_not_do_are_one_line(
    scenario_file: Path, options: tuple[str, ...], error: type[Exception], message: str
) -> None:
    scenario = load_scenario(scenario_file, (*options, "run.batch=1", "run.policies=lru", "trace.num_steps=14"))
    with pytest.raises(error, match=message):
        measure(scenario, scenario_file)


def test_windows_beside_pages_are_not_split() -> None:
    with pytest.raises(ScenarioError, match="hold a sliding window"):
        made(
            *SMALL[:3],
            "run.devices=2",
            "model.shape=gemma-3-4b",
            "profile.allow_other_shape=true",
            "budget.pages_per_layer=60",
        )


def test_what_is_for_one_device_says_so(scenario_file: Path, tmp_path: Path) -> None:
    job = Job(base_dir=scenario_file.parent)
    options = (*TWO, "run.batch=1", "budget.context_frac=0.6")
    scenario = load_scenario(scenario_file, options)
    for refuse in (
        lambda: measure_timeline(scenario, 0, job),
        lambda: max_contexts(scenario, job),
    ):
        with pytest.raises(ScenarioError, match=r"is for one device; set run\.devices = 1"):
            refuse()
    profile = load_profile(scenario_file.parent / "p.toml")
    write_profile(profile.model_copy(update={"device": "cuda"}), tmp_path / "gpu.toml")
    scenario = load_scenario(scenario_file, (*options, f"profile.path={tmp_path / 'gpu.toml'}"))
    with pytest.raises(ScenarioError, match="several devices are measured on a CPU"):
        measure(scenario, scenario_file)
