"""A model of which some layers hold a state, measured and simulated: equal counts, and the state in the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from kvsim.engine.model.loading import read_shape
from kvsim.experiments.decode.measure import measure
from kvsim.experiments.decode.report.compare import compare
from kvsim.experiments.decode.simulate import simulate
from kvsim.experiments.types import Job
from kvsim.profile.profile import write_profile
from kvsim.report.results import RunResult, write_result
from kvsim.scenario.decode import load_scenario
from kvsim.traces import open_trace
from tests.accesses import make_profile
from tests.engine.families.models import tiny_model_of
from tests.experiments.decode.measured import SCENARIO

POLICIES = '["resident", "lru", "attention", "tests.speculative:Speculative"]'


@pytest.fixture(scope="module", params=["qwen3_next", "lfm2", "granitemoehybrid"])
def scenario_file(request: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    model = folder / "model"
    tiny_model_of(request.param).save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    profile = make_profile(bandwidth_bytes_per_s=2e9)
    link = profile.link.model_copy(update={"stated_bandwidth_bytes_per_s": 5e8, "emulated": True})
    machine = profile.machine.model_copy(update={"num_threads": 1})
    shape = read_shape(model, "fp32")
    write_profile(profile.model_copy(update={"shape": shape, "link": link, "machine": machine}), folder / "p.toml")
    letters = np.random.default_rng(0).choice(list("etaoin shrdlu"), size=600)
    (folder / "text.txt").write_text("".join(letters))
    text = SCENARIO.replace("[model.shape]\n{shape}\n", 'shape = "{model}"\ndtype = "fp32"\n')
    file = folder / "states.toml"
    file.write_text(text.format(model=model, profile="p.toml", text="text.txt"))
    return file


@pytest.fixture(scope="module")
def results(scenario_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, RunResult, Path]:
    """Return a measured result, the same simulated on its accesses, and the folder of the first."""
    scenario = load_scenario(scenario_file, [f"run.policies={POLICIES}", "measure.repeats=1"])
    measured, traces = measure(scenario, Job(text=scenario_file.read_text(), base_dir=scenario_file.parent))
    folder = write_result(measured, tmp_path_factory.mktemp("results"), traces)
    return measured, simulate(scenario, Job(base_dir=scenario_file.parent, recorded=folder)), folder


def test_counts_are_equal_page_by_page(results: tuple[RunResult, RunResult, Path]) -> None:
    measured, simulated, _ = results
    comparison = compare(simulated, measured)
    assert comparison.divergence is None
    assert comparison.figures["num_cells"] == 16
    rows = measured.rows
    paged = (rows["policy"] != "resident") & rows["is_stamped"]
    assert rows["misses"][paged].sum() > 30
    assert rows["prefetched"][paged].sum() > 10


def test_layers_with_a_state_are_in_memory_and_not_among_the_pages(
    scenario_file: Path, results: tuple[RunResult, RunResult, Path]
) -> None:
    shape = read_shape(scenario_file.parent / "model", "fp32")
    _, simulated, folder = results
    for path in folder.glob("*.kvtrace"):
        assert open_trace(path).num_layers == shape.paged_layers == shape.num_layers - shape.state_layers
    for cell in simulated.summary["cells"]:
        if cell["policy"] == "resident":
            pages = -(-cell["context_tokens"] // 16) * shape.paged_layers * cell["batch"]
            states_bytes = cell["batch"] * shape.state_bytes
            assert cell["kv_device_bytes"] == pages * shape.page_bytes(16) + states_bytes
            assert states_bytes > 0
