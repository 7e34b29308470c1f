"""A scenario's `kind` decides which experiment runs it; one that does not exist is named, with the nearest."""

from pathlib import Path

import pytest

from kvsim.errors import ResultError, ScenarioError
from kvsim.experiments.registry import (
    EXPERIMENTS,
    compare_results,
    experiment_of,
    load_experiment,
    load_measurement,
    load_scenario,
)
from kvsim.report.results import RunResult
from kvsim.scenario.shipped import shipped_scenarios


def result(**summary: object) -> RunResult:
    return RunResult(summary=dict(summary), rows={}, manifest={})


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [('"decod"', "unknown experiment 'decod'; did you mean 'decode'"), ("3", "unknown experiment 3; known are decode")],
)
def test_a_kind_that_there_is_not_names_the_nearest_or_all(tmp_path: Path, kind: str, complaint: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f"kind = {kind}\n")
    with pytest.raises(ScenarioError, match=rf"s\.toml: kind: {complaint}"):
        load_scenario(path)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_loads_and_has_a_shipped_scenario(name: str) -> None:
    assert callable(load_experiment(name).simulate)
    assert name in {load_scenario(path).experiment for path in shipped_scenarios().values()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_measured(name: str) -> None:
    pytest.importorskip("torch")
    assert callable(load_measurement(name).measure)


def test_results_of_two_experiments_are_not_compared() -> None:
    with pytest.raises(ResultError, match="'other', which this kvsim does not know"):
        experiment_of(result(kind="other"))
    assert experiment_of(result()) == "decode"
    with pytest.raises(ResultError, match="does not know"):
        compare_results(result(), result(kind="other"))
    with pytest.raises(ResultError, match="of different experiments: decode and kv-on-off"):
        compare_results(result(), result(kind="kv-on-off"))
