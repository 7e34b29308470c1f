"""Commands with a plug-in that prints or fails: JSON stays JSON, and an error is a line with its frames."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joblib.externals.loky import get_reusable_executor

from kvsim.cli import run_command

PRINTING = """
import numpy as np

print("imported")

class Mine:
    def __init__(self, setting):
        print("made")
    def arrived(self, pages):
        print("arrived")
    def touch(self, view):
        {touch}
    def left(self, pages):
        pass
    def victims(self, view, pool, count, spared):
        return np.flatnonzero(view.evictable if spared is None else view.evictable & ~spared)[:count]
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch) -> Iterator[Any]:
    """Return a function that writes the module of a plug-in and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")  # for processes that are started
    monkeypatch.chdir(tmp_path)
    get_reusable_executor().shutdown(wait=True)  # processes of an earlier test know another path
    number = len(list(Path(tmp_path).parent.iterdir()))

    def write(touch: str) -> str:
        module = f"plug_in_{number}_{abs(hash(touch))}"
        (tmp_path / f"{module}.py").write_text(PRINTING.format(touch=touch))
        return f"{module}:Mine"

    yield write
    get_reusable_executor().shutdown(wait=True)


SMALL = ["smollm2_cpu", "--set", "budget.pages_per_layer=[24, 32]", "--set", "trace.num_steps=12", "--no-figures"]


@pytest.mark.parametrize("command", [["run"], ["sweep", "--workers", "1"], ["sweep", "--workers", "2"]])
def test_json_is_json_whatever_a_plug_in_prints(capfd, plug_in, command: list[str]) -> None:
    name = plug_in("print('touched')")
    options = ["--set", f'run.policies=["lru", "{name}"]', "--json", "-o", "out"]
    assert run_command([*command, *SMALL, *options]) == 0
    printed = capfd.readouterr().out
    assert [cell["policy"] for cell in json.loads(printed)["cells"]] == ["lru", name] * 2


def test_json_is_json_whatever_a_subprocess_of_a_plug_in_prints(plug_in) -> None:
    name = plug_in("import os, subprocess; subprocess.run(['echo', 'touched']); os.write(1, b'raw')")
    options = ["--set", f'run.policies=["lru", "{name}"]', "--json", "-o", "out"]
    command = [sys.executable, "-m", "kvsim", "run", *SMALL, *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert len(json.loads(ended.stdout)["cells"]) == 4
    assert "touched\n" in ended.stderr and "raw" in ended.stderr


def test_json_is_json_in_processes_of_a_long_run(capfd, plug_in, monkeypatch) -> None:
    monkeypatch.setattr("kvsim.experiments.decode.simulate.MIN_DECISIONS_FOR_PROCESSES", 1)
    name = plug_in("print('touched')")
    assert run_command(["run", *SMALL, "--set", f'run.policies=["lru", "{name}"]', "--json", "-o", "out"]) == 0
    assert len(json.loads(capfd.readouterr().out)["cells"]) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_command_reports_a_plug_ins_error_in_a_line_and_its_frames(capfd, plug_in, workers: int) -> None:
    name = plug_in("view.scores[0] = 1.0")
    options = ["--set", f'run.policies=["lru", "{name}"]', "-o", "out"]
    assert run_command(["run", *SMALL, *options]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line not in ("imported", "made", "arrived")]
    assert lines[0].startswith(f"policy '{name}': step 0, layer 0: touch raised ValueError: assignment destination")
    assert len(lines) == 3
    assert run_command(["sweep", *SMALL, *options, "--workers", str(workers)]) == 2
    captured = capfd.readouterr()
    assert f"policy '{name}': step 0, layer 0: touch raised ValueError: " in captured.out
    (failed,) = Path("out").rglob("failed.txt")
    assert "view.scores[0] = 1.0" in failed.read_text()


@pytest.mark.parametrize("touch", ["view.misses[:] = 0", "raise KeyError(1)", "1 / 0", "raise SystemExit"])
def test_policy_test_finds_it(capfd, plug_in, touch: str) -> None:
    name = plug_in(touch)
    assert run_command(["policy", "test", name]) == 2
    captured = capfd.readouterr()
    assert "FAILED  runs in a pool that all layers share" in captured.out
    lines = [line for line in captured.err.splitlines() if line not in ("imported", "made", "arrived")]
    assert all(line.startswith(f"policy {name}: ") for line in lines)
