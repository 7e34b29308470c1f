"""Everything that ships works as it stands: every scenario, profile and capture, found by its name."""

from __future__ import annotations

import pytest

from kvsim.experiments.registry import DECODE, load_experiment, load_scenario
from kvsim.profile.profile import load_profile
from kvsim.scenario.shipped import CAPTURE_SUFFIX, REQUESTS_SUFFIX, shipped, shipped_folder, shipped_scenarios
from kvsim.traces.access.file import open_trace
from kvsim.traces.requests.base import gather
from kvsim.traces.requests.full_blocks import read_full_blocks


@pytest.mark.parametrize("name", shipped_scenarios())
def test_a_shipped_scenario_can_be_run_and_asks_a_question(name: str) -> None:
    path = shipped_scenarios()[name]
    loaded = load_scenario(path)
    scenario = loaded.scenario
    assert scenario.name == name
    assert scenario.question.endswith("?")
    num_cells = len(scenario.cells) * (len(scenario.run.policies) if loaded.experiment == DECODE else 1)
    assert load_experiment(loaded.experiment).check(scenario, path.parent) == num_cells


@pytest.mark.parametrize("name", shipped("captures", REQUESTS_SUFFIX))
def test_a_shipped_request_trace_is_whole_and_small(name: str) -> None:
    path = shipped("captures", REQUESTS_SUFFIX)[name]
    assert gather(read_full_blocks(path), block_tokens=16, source=path).num_requests > 1000
    assert path.stat().st_size < 1e6


@pytest.mark.parametrize("name", shipped("profiles", ".toml"))
def test_a_shipped_profile_is_valid_and_has_its_files_name(name: str) -> None:
    assert load_profile(shipped("profiles", ".toml")[name]).name == name


@pytest.mark.parametrize("name", shipped("captures", CAPTURE_SUFFIX))
def test_a_shipped_capture_is_whole_and_says_how_to_make_it_again(name: str) -> None:
    trace = open_trace(shipped("captures", CAPTURE_SUFFIX)[name])
    assert trace.num_steps >= 128
    assert min(trace.header.prompt_tokens) >= 4096
    assert trace.header.recipe.startswith("kvsim capture ")


def test_captures_stay_small_enough_to_ship() -> None:
    sizes_bytes = [path.stat().st_size for path in shipped_folder("captures").glob(f"*{CAPTURE_SUFFIX}")]
    assert len(sizes_bytes) == 3
    assert sum(sizes_bytes) < 20e6
