"""A model of which some layers hold a state, measured and simulated: equal counts, and the state in the memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from kvsim.engine.model.loading import read_shape
from kvsim.report.results import RunResult
from kvsim.traces import open_trace
from tests.engine.families.models import tiny_model_of
from tests.experiments.decode.measured import agreed, written

POLICIES = '["resident", "lru", "attention", "tests.speculative:Speculative"]'


@pytest.fixture(scope="module", params=["qwen3_next", "lfm2", "granitemoehybrid"])
def scenario_file(request: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states")
    model = folder / "model"
    tiny_model_of(request.param).save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    file = written(folder, model)
    sizes = re.compile(r"\[model\.shape\].*(?=\[profile\])", re.DOTALL)
    file.write_text(sizes.sub(f'shape = "{model}"\ndtype = "fp32"\n', file.read_text()))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def measured(scenario_file: Path, folder: Path) -> RunResult:
    """Return a result whose counts are those of its simulation, page by page; it is kept in `folder`."""
    return agreed(scenario_file, folder, f"run.policies={POLICIES}", "measure.repeats=1").result


def test_counts_are_equal_page_by_page(measured: RunResult) -> None:
    assert len(measured.summary["cells"]) == 16
    rows = measured.rows
    paged = (rows["policy"] != "resident") & rows["is_stamped"]
    assert rows["misses"][paged].sum() > 30
    assert rows["prefetched"][paged].sum() > 10


def test_layers_with_a_state_are_in_memory_and_not_among_the_pages(
    scenario_file: Path, measured: RunResult, folder: Path
) -> None:
    shape = read_shape(scenario_file.parent / "model", "fp32")
    for path in folder.rglob("*.kvtrace"):
        assert open_trace(path).num_layers == shape.paged_layers == shape.num_layers - shape.state_layers
    for cell in measured.summary["cells"]:
        if cell["policy"] == "resident":
            pages = -(-cell["context_tokens"] // 16) * shape.paged_layers * cell["batch"]
            states_bytes = cell["batch"] * shape.state_bytes
            assert cell["kv_device_bytes"] == pages * shape.page_bytes(16) + states_bytes
            assert states_bytes > 0
