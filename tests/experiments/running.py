"""A scenario run from Python, and a command with what it says: what tests of every experiment do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kvsim.cli import run_command
from kvsim.experiments.registry import load_experiment, load_measurement
from kvsim.experiments.types import Job
from kvsim.report.results import RunResult
from tests.experiments.named import load_named


def simulate(file: Path, *overrides: str, recorded: Path | None = None) -> RunResult:
    name, scenario = load_named(file, overrides)
    return load_experiment(name).simulate(scenario, Job(base_dir=file.parent, recorded=recorded))


def measure(file: Path, *overrides: str) -> tuple[RunResult, dict[str, bytes]]:
    name, scenario = load_named(file, overrides)
    return load_measurement(name).measure(scenario, Job(base_dir=file.parent))


def check(file: Path, *overrides: str) -> int:
    name, scenario = load_named(file, overrides)
    return load_experiment(name).check(scenario, file.parent)


def settings(overrides: Sequence[str]) -> list[str]:
    """Return the words that give a command these overrides."""
    return [word for override in overrides for word in ("--set", override)]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command prints that must succeed."""
    assert run_command(list(words)) == 0
    return capsys.readouterr().out


def printed_json(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    return json.loads(printed(capsys, *words, "--json"))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line in which a command says why it does nothing."""
    assert run_command(list(words)) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1, told
    return told
