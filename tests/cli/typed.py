"""What tests of several commands do: run one that is refused, and a small simulation to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvsim.cli import run_command

SMALL = [
    "smollm2_cpu",
    *("--set", "trace.num_steps=12"),
    *("--set", "run.policies=lru,stream"),
    *("--set", "budget.pages_per_layer=[20, 60]"),
]
"""Four cells."""


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run a command that must fail with `code` and say one line on standard error, nothing on the other; return it."""
    assert run_command(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.rstrip("\n")


def result_of(folder: Path, *arguments: str) -> Path:
    """Run a command that writes one result into `folder`, and return where it is."""
    assert run_command([*arguments, "-o", str(folder)]) == 0
    (found,) = folder.glob("**/summary.json")
    return found.parent
