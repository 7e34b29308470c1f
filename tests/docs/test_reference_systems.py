"""The table of reference systems: every command in it is one that works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from kvsim.cli import run_command

DOCS = Path(__file__).parents[2] / "docs"
COMMANDS = sorted(set(re.findall(r"`(kvsim [^`]+)`", (DOCS / "reference-systems.md").read_text(encoding="utf-8"))))
SCENARIOS = [command for command in COMMANDS if command.split()[1] in ("run", "measure", "crosscheck")]


@pytest.mark.parametrize("command", SCENARIOS)
def test_the_scenario_of_every_row_is_shipped_and_valid(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, scenario, *options = shlex.split(command)
    settings = [option for option in options if option != "--max-context"]
    assert run_command(["check", scenario, *settings]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_known(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)
    depth = 3 if words[1] in ("policy", "profile", "trace") else 2
    assert run_command([*words[1:depth], "--help"]) == 0
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} <= known


def test_every_script_of_the_table_is_there() -> None:
    scripts = re.findall(r"`python (bench/[^` ]+)[^`]*`", (DOCS / "reference-systems.md").read_text(encoding="utf-8"))
    assert {"bench/predictors.py", "bench/paging_tables.py"} <= set(scripts)
    assert all((DOCS.parent / script).exists() for script in scripts)
