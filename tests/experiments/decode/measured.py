"""A small scenario that is measured, and what tests do with it: measure it, and simulate what was recorded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from kvsim.engine.model.loading import read_shape
from kvsim.experiments.decode import measure as measuring
from kvsim.experiments.decode.report.compare import Comparison, compare
from kvsim.experiments.decode.simulate import simulate
from kvsim.experiments.types import Job
from kvsim.profile.profile import write_profile
from kvsim.report.results import RunResult, write_result
from kvsim.scenario.decode import Scenario, load_scenario
from tests.accesses import make_profile, shape_text

SCENARIO = """
schema_version = 1
name = "tiny"
page_tokens = 16
[model]
path = "{model}"
[model.shape]
{shape}
[profile]
path = "{profile}"
[trace]
path = "smollm2-docs"
[budget]
context_frac = 0.5
[selector]
name = "top-k"
k_pages = 3
sink_pages = 1
recent_pages = 1
channel = "estimate:quest"
[prefetch]
quota_pages = 2
chunk_pages = 2
[run]
policies = ["resident", "lru", "attention"]
warmup_steps = 2
[measure]
text = "{text}"
prompt_tokens = 150
num_steps = 14
repeats = 2
[sweep]
"budget.context_frac" = [0.35, 0.6]
"run.batch" = [1, 2]
"""


@pytest.fixture(scope="module")
def scenario_file(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("tiny"), tiny_model_path)


def written(folder: Path, model_path: Path, **machine: str) -> Path:
    """Return the scenario, written to `folder` with two texts and a profile of the model; `machine` is of its own."""
    shape = read_shape(model_path, "fp32")
    profile = make_profile(bandwidth_bytes_per_s=2e9)
    link = profile.link.model_copy(update={"stated_bandwidth_bytes_per_s": 5e8, "emulated": True})
    own = profile.machine.model_copy(update={"num_threads": 1, **machine})
    write_profile(profile.model_copy(update={"shape": shape, "link": link, "machine": own}), folder / "p.toml")
    for seed, name in enumerate(("text.txt", "other.txt")):
        letters = np.random.default_rng(seed).choice(list("etaoin shrdlu"), size=600)
        (folder / name).write_text("".join(letters))
    file = folder / "tiny.toml"
    file.write_text(SCENARIO.format(model=model_path, shape=shape_text(shape), profile="p.toml", text="text.txt"))
    return file


class Measured(NamedTuple):
    result: RunResult
    traces: dict[str, bytes]


def measure(scenario: Scenario, file: Path) -> Measured:
    return Measured(*measuring.measure(scenario, Job(text=file.read_text(), base_dir=file.parent)))


def agreed(file: Path, tmp_path: Path, *overrides: str) -> Measured:
    """Measure a scenario, hold its counts to those of its simulation, and return it."""
    scenario = load_scenario(file, overrides)
    found = measure(scenario, file)
    folder = write_result(found.result, tmp_path, found.traces)
    check = simulated(scenario, found.result, folder, file.parent)
    assert check.comparison.divergence is None
    for own, other in zip(found.result.summary["cells"], check.simulated.summary["cells"], strict=True):
        assert own["context_tokens"] == other["context_tokens"]
        assert own.get("devices") == other.get("devices")
        np.testing.assert_allclose(own["mass_recall_frac"], other["mass_recall_frac"], rtol=1e-3)
    return found


@dataclass
class Check:
    """A measured scenario simulated on its own accesses, and the two compared."""

    simulated: RunResult
    comparison: Comparison


def simulated(scenario: Scenario, measured: RunResult, folder: Path, base_dir: Path) -> Check:
    found = simulate(scenario, Job(base_dir=base_dir, recorded=folder))
    return Check(found, compare(found, measured))
