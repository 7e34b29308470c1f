"""Adding an experiment is one package and one line: a toy one runs, is checked and shown on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvsim.cli import run_command
from kvsim.experiments.registry import EXPERIMENTS
from tests.experiments.running import printed, refused

PACKAGE = {
    "__init__.py": '"""A toy."""',
    "scenario.py": '''
from typing import Literal
from pydantic import PositiveInt
from kvsim.scenario.file import AnyScenario

class Dice(AnyScenario):
    """How many dice are thrown."""

    kind: Literal["dice"]
    num_dice: PositiveInt
''',
    "experiment.py": """
import numpy as np
from kvsim.errors import ScenarioError
from kvsim.experiments.types import Experiment
from kvsim.report.comparison import Compared
from kvsim.profile.provenance import make_manifest
from kvsim.report.results import RunResult
from toy.scenario import Dice

def check(scenario, base_dir):
    if scenario.num_dice == 13:
        raise ScenarioError(f"{scenario.name}: num_dice: 13 is unlucky")
    return len(scenario.cells)

def simulate(scenario, job):
    cells = [{"num_dice": cell.num_dice, "mean": 3.5 * cell.num_dice} for cell in scenario.cells]
    summary = {"schema_version": 1, "kind": "dice", "scenario": scenario.name, "cells": cells, "verdict": []}
    manifest = make_manifest(scenario_text=job.text, scenario_hash=scenario.hash, seed=0, command=job.command)
    return RunResult(summary=summary, rows={"cell": np.arange(len(cells))}, manifest=manifest)

def show(summary):
    return "\\n".join(f"{cell['num_dice']} dice show {cell['mean']}" for cell in summary["cells"])

def compare(simulated, measured):
    return Compared(contents={}, text="", files={})

EXPERIMENT: Experiment[Dice] = Experiment(
    check=check, simulate=simulate, show=show, figures=lambda result: {}, compare=compare
)
""",
}
SCENARIO = 'schema_version = 1\nname = "throw"\nkind = "dice"\nnum_dice = 2\n[sweep]\nnum_dice = [2, 4]\n'


@pytest.fixture(autouse=True)
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in PACKAGE.items():
        file = tmp_path / "toy" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (tmp_path / "throw.toml").write_text(SCENARIO, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(EXPERIMENTS, "dice", "toy.scenario:Dice")  # the one line


def test_it_runs_and_is_shown_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = "2 dice show 7.0\n4 dice show 14.0\n"
    assert printed(capsys, "run", "throw.toml", "-o", "out").startswith(f"{shown}\nresult: out/throw/")
    (folder,) = (tmp_path / "out" / "throw").iterdir()
    assert printed(capsys, "show", str(folder)) == shown


def test_it_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "check", "throw.toml") == "throw.toml: fine, 2 cells\n"
    assert refused(capsys, "check", "throw.toml", "--set", "num_dice=13") == "throw: num_dice: 13 is unlucky\n"
    told = refused(capsys, "check", "throw.toml", "--set", "num_die=3")
    assert "unknown key 'num_die'; did you mean 'num_dice'?" in told


def test_an_experiment_without_its_constant_is_our_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toy.experiment.EXPERIMENT", None)
    with pytest.raises(TypeError, match=r"toy\.experiment\.EXPERIMENT is NoneType, not Experiment"):
        run_command(["check", "throw.toml"])
