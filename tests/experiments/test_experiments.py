"""A scenario's kind decides who runs it, and a kind that is not there is told by name."""

from pathlib import Path

import pytest

from kvsim.errors import ResultError, ScenarioError
from kvsim.experiments import (
    KINDS,
    compare_results,
    kind_of,
    kind_of_result,
    load_scenario,
    measured_kind,
    simulated_kind,
)
from kvsim.report.results import RunResult
from kvsim.scenario.shipped import shipped_scenarios


def result(**summary: object) -> RunResult:
    return RunResult(summary=dict(summary), rows={}, manifest={})


def test_a_file_that_does_not_say_is_of_decode(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('name = "s"\n')
    assert kind_of(path) == "decode"


def test_a_misspelt_kind_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('kind = "decod"\n')
    with pytest.raises(ScenarioError, match=r"s\.toml: kind: unknown kind 'decod'.*did you mean.*decode"):
        kind_of(path)


def test_a_kind_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("kind = 3\n")
    with pytest.raises(ScenarioError, match="kind: unknown kind 3; known are decode"):
        load_scenario(path)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_its_parts_and_a_shipped_scenario(name: str) -> None:
    module = simulated_kind(name)
    assert all(callable(getattr(module, part)) for part in ("check", "simulate", "show", "figures", "compare"))
    assert callable(measured_kind(name).measure)
    assert name in {kind_of(path) for path in shipped_scenarios().values()}


def test_results_of_two_kinds_are_not_compared() -> None:
    with pytest.raises(ResultError, match="'other', which this kvsim does not know"):
        kind_of_result(result(kind="other"))
    assert kind_of_result(result()) == "decode"
    with pytest.raises(ResultError, match="does not know"):
        compare_results(result(), result(kind="other"))
