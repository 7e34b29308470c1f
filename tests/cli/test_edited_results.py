"""A result that somebody edited, digests and all, ends in a line that names it, whichever command reads it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvsim.cli import run_command
from kvsim.scenario.digest import file_digest
from tests.cli.typed import result_of

CHANGE = ("--set", "run.seed=7")
SMALL = ("--set", "trace.num_steps=12", "--set", "run.policies=lru,stream", "--set", "budget.pages_per_layer=20")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result_of(tmp_path_factory.mktemp("run"), "run", "smollm2_cpu", *SMALL, "--no-figures")


@pytest.fixture
def edited(result: Path, tmp_path: Path) -> Callable[[Callable[[Any], Any]], Path]:
    """Return a function that edits the summary of a copy, makes its digest again, and returns the copy."""

    def edit(change: Callable[[Any], Any]) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(result, folder)
        summary, manifest = (json.loads((folder / name).read_text()) for name in ("summary.json", "manifest.json"))
        change(summary)
        (folder / "summary.json").write_text(json.dumps(summary))
        manifest["files"]["summary.json"] = file_digest(folder / "summary.json")
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return edit


def each_cell(name: str, value: Any) -> Callable[[Any], Any]:
    return lambda summary: [cell.__setitem__(name, value) for cell in summary["cells"]]


def without(name: str) -> Callable[[Any], Any]:
    return lambda summary: [cell.pop(name) for cell in summary["cells"]]


@pytest.mark.parametrize(
    ("change", "commands"),
    [
        (lambda summary: summary.update(cells=[]), ["show"]),
        (lambda summary: summary.update(swept=None), ["show", "whatif"]),
        (lambda summary: summary.update(verdict=3), ["show", "report"]),
        (lambda summary: summary.update(profile=[]), ["show"]),
        (each_cell("device_bytes", "many"), ["show", "report", "whatif"]),
        (each_cell("hit_frac", []), ["show", "report"]),
        (each_cell("selector", None), ["show"]),
        (each_cell("policy", []), ["compare", "whatif"]),
        (each_cell("tpot_p50_s", "x"), ["show", "compare", "whatif"]),
        (without("fits"), ["whatif"]),
    ],
    ids=range(10),
)
def test_it_is_a_line_that_names_the_result(
    edited: Any,
    result: Path,
    tmp_path: Path,
    change: Callable[[Any], Any],
    commands: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = edited(change)
    options = {
        "show": [],
        "report": ["-o", str(tmp_path / "page.html")],
        "compare": [str(result), "-o", str(tmp_path / "compared")],
        "whatif": [*CHANGE, "-o", str(tmp_path / "changed")],
    }
    for command in commands:
        assert run_command([command, str(folder), *options[command]]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(str(folder))
        assert re.search(r": damaged: its contents do not fit together \(\w+: .*, kvsim/.*, line \d+\); run", line)
    assert not list(tmp_path.glob("changed/**/summary.json"))
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(("key", "value"), [("base_dir", [1]), ("accesses", None), ("overrides", None)])
def test_an_edited_manifest_is_a_line_wherever_the_scenario_is_read_from_it(
    edited: Any, key: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = edited(lambda summary: None)
    manifest = json.loads((folder / "manifest.json").read_text()) | {key: value}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    page = str(tmp_path / "page.html")
    for command, *options in (
        ["whatif", *CHANGE],
        ["whatif", "--reach", "tpot_p50_s<=1", "--over", "budget.pages_per_layer=20:40"],
        ["report", "--timeline", "0", "-o", page],
    ):
        assert run_command([command, str(folder), *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert ": the manifest: damaged: its contents do not fit together (TypeError: " in line
