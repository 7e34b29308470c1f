"""Where commands write: refused before their work where nothing can be written, and shown where writing fails after."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from kvsim.cli import app, run_command
from kvsim.cli.outputs import named
from kvsim.errors import ResultError
from tests.cli.typed import refusal

FOLDERS = {
    "run": ["run", "smollm2_cpu"],
    "sweep": ["sweep", "smollm2_cpu"],
    "measure": ["measure", "crosscheck_quick"],
    "measure --max-context": ["measure", "crosscheck_quick", "--max-context"],
    "crosscheck": ["crosscheck", "crosscheck_quick", "--no-calibrate"],
    "whatif": ["whatif", "RESULT", "--set", "page_tokens=64"],
    "compare": ["compare", "RESULT", "OTHER"],
    "mrc": ["mrc", "smollm2-docs"],
    "profile show": ["profile", "show", "h200-llama-3-8b-published"],
    "trace info": ["trace", "info", "smollm2-docs"],
    "serving capacity": ["serving", "capacity", "serving"],
}
"""Commands that write into a folder."""

FILES = {
    "capture": ["capture", "--model", "MODEL", "--text", "text.txt"],
    "calibrate": ["calibrate", "--shape", "llama-3-8b"],
    "trace fit": ["trace", "fit", "smollm2-docs"],
    "timeline": ["timeline", "smollm2_cpu"],
    "policy time": ["policy", "time", "lru", "--profile", "h200-llama-3-8b-published"],
    "report": ["report", "RESULT"],
    "serving schedule": ["serving", "schedule", "WORKLOAD"],
    "plan": ["plan", "--model", "llama-3-8b", "--gpu", "rtx-4090", "--context", "16k"],
}
"""Commands that write one file."""

WORK = (
    *(f"kvsim.cli.{name}bar" for name in ("", "traces.", "profiles.", "measure.", "policy.", "search.", "timeline.")),
    "kvsim.traces.generator.fit.fit_generator",
    "kvsim.traces.access.statistics.measure_statistics",
    "kvsim.experiments.decode.miss_curve.curve_of",
    "kvsim.experiments.pages.page_of",
    "kvsim.experiments.side_by_side.side_by_side",
    "kvsim.report.profile_figures.profile_figure",
    "kvsim.experiments.serving.schedules.write.write_schedule",
    "kvsim.experiments.serving.capacity.find_capacity",
    "kvsim.experiments.plan.plan",
)
"""What begins the work of these commands, after all checks."""


class WorkBeganError(AssertionError):
    """A command went on to its work."""


@pytest.fixture(scope="session")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small simulated result."""
    folder = tmp_path_factory.mktemp("results")
    small = ["--set", "budget.pages_per_layer=24", "--set", "trace.num_steps=16", "--no-figures"]
    typed = ["run", "smollm2_cpu", *small, "--set", "run.policies=resident,lru", "-o", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["kvsim", *typed])
        assert run_command(typed) == 0
    (summary,) = folder.glob("*/*/summary.json")
    return summary.parent


@pytest.fixture
def command(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    result: Path,
    tiny_model_path: Path,
    request: pytest.FixtureRequest,
) -> list[str]:
    """Return a command without its ``-o``; its work would raise `WorkBeganError`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a text")

    def begin(*arguments: Any, **options: Any) -> Any:
        raise WorkBeganError

    for name in WORK:
        monkeypatch.setattr(name, begin)
    schedules = Path(__file__).parents[1] / "experiments" / "serving" / "schedules" / "vllm-0.32.0"
    workload = schedules / "adaptive-threshold.json.gz"
    other = shutil.copytree(result, tmp_path_factory.mktemp("other") / "copy")
    places = {"RESULT": str(result), "OTHER": str(other), "MODEL": str(tiny_model_path), "WORKLOAD": str(workload)}
    return [places.get(word, word) for word in (FOLDERS | FILES)[request.param]]


every = pytest.mark.parametrize("command", [*FOLDERS, *FILES], indirect=True)
every_folder = pytest.mark.parametrize("command", FOLDERS, indirect=True)
every_file = pytest.mark.parametrize("command", FILES, indirect=True)


def test_every_output_of_every_command_is_checked_by_one_function():
    """Whatever command there is: one that is added without the check fails here, and so does one without a test."""
    outputs = {name: option for name, callback in _commands(app, "") for option in _output_of(callback)}
    assert all(option.parser is named for option in outputs.values())
    tested = {" ".join(words) for words in (FOLDERS | FILES).values()}
    assert not [name for name in outputs if not any(f"{words} ".startswith(f"{name} ") for words in tested)]
    assert len(outputs) == len(tested) - 1  # measure is tested twice


def _commands(found: typer.Typer, path: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in found.registered_commands:
        assert command.callback is not None
        yield f"{path}{command.name or command.callback.__name__}", command.callback
    for group in found.registered_groups:
        assert group.typer_instance is not None
        yield from _commands(group.typer_instance, f"{path}{group.name} ")


def _output_of(callback: Callable[..., Any]) -> list[Any]:
    hints = typing.get_type_hints(callback, vars(importlib.import_module(callback.__module__)), include_extras=True)
    metadata = [one for hint in hints.values() for one in getattr(hint, "__metadata__", ())]
    return [one for one in metadata if getattr(one, "default", None) == "--output"]


@every
def test_an_empty_name_is_refused(capsys, command):
    assert refusal(capsys, *command, "-o", "").startswith("--output: an empty name")


@every
def test_a_place_below_a_file_is_refused_before_the_work(capsys, command, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "file/inner/x" in refusal(capsys, *command, "-o", "file/inner/x")
    assert (tmp_path / "file").read_text() == "mine"


@every_folder
def test_a_file_where_a_folder_is_needed_is_refused_before_the_work(capsys, command, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert refusal(capsys, *command, "-o", "file").startswith("file: cannot be written: ")
    assert (tmp_path / "file").read_text() == "mine"


@every_file
@pytest.mark.parametrize("output", [".", "folder", "folder/"])
def test_a_folder_where_a_file_is_needed_is_refused_before_the_work(capsys, command, tmp_path, output):
    (tmp_path / "folder").mkdir()
    line = refusal(capsys, *command, "-o", output)
    assert "a folder, where the file to write is needed, as in " in line
    assert "NAME." in line


@every_file
def test_a_device_is_refused_and_stays(capsys, command):
    assert refusal(capsys, *command, "-o", "/dev/null").startswith("/dev/null: not a file; ")
    assert not Path("/dev/null").is_file()


@every
def test_a_folder_that_takes_no_files_is_refused_before_the_work(capsys, command, tmp_path, monkeypatch):
    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert "cannot be written: Read-only file system" in refusal(capsys, *command, "-o", "new/x")


@every
def test_folders_are_made_before_the_work(command, tmp_path):
    with pytest.raises(WorkBeganError):
        run_command([*command, "-o", "new/place/x.json"])
    assert (tmp_path / "new" / "place").is_dir()


def full_disk(*arguments: Any, **options: Any) -> Any:
    """Raise what a writer raises when the disk is full."""
    raise ResultError("x: cannot be written: No space left on device")


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("command", "writer"),
    [
        (["run", "smollm2_cpu"], "kvsim.report.results.write_result"),
        (["sweep", "smollm2_cpu", "--workers", "1"], "kvsim.report.results.write_result"),
        (["whatif", "RESULT"], "kvsim.report.results.write_result"),
    ],
)
def test_what_was_worked_out_is_printed_where_writing_fails(
    capsys, tmp_path, monkeypatch, result, command, writer, as_json
):
    monkeypatch.chdir(tmp_path)
    command = [str(result) if word == "RESULT" else word for word in command]
    command += ["--set", "budget.pages_per_layer=32"]
    if command[0] in ("run", "sweep"):
        command += ["--set", "run.policies=resident,lru", "--set", "trace.num_steps=16", "--no-figures"]
    monkeypatch.setattr(writer, full_disk)
    assert run_command([*command, "-o", "out", *(["--json"] if as_json else [])]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("{") if as_json else "lru" in captured.out
    assert captured.err.startswith("x: cannot be written: No space left on device")
    if command[0] == "sweep":
        assert f"; the finished cells are kept in {tmp_path / 'out' / 'smollm2_cpu' / 'cells'}" in captured.err


def test_whatif_writes_beside_the_result_wherever_that_lies(capsys, tmp_path, monkeypatch, result):
    outside = dict.fromkeys(result.parent.parent.rglob("*"))
    shutil.copytree(result, tmp_path / "here" / "mine")
    monkeypatch.chdir(tmp_path / "here")
    assert run_command(["whatif", "mine", "--set", "budget.pages_per_layer=32"]) == 0
    assert capsys.readouterr().out.rstrip().rpartition("result: ")[2].startswith(str(tmp_path / "here" / "smollm2_cpu"))
    assert {path.name for path in tmp_path.iterdir()} == {"here"}
    assert run_command(["whatif", str(result), "--set", "budget.pages_per_layer=32"]) == 0
    (made,) = {path for path in result.parent.parent.rglob("*") if path.is_dir()} - set(outside)
    assert made.parent == result.parent


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("x", "x: written; see `kvsim trace info ./x`\n"),
        ("a b/x", "a b/x: written; see `kvsim trace info 'a b/x'`\n"),
        ("x.kvtrace", "x.kvtrace: written; see `kvsim trace info x.kvtrace`\n"),
    ],
)
def test_what_a_capture_suggests_works(capsys, tmp_path, monkeypatch, tiny_model_path, output, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("One page, two pages, three pages and a token. " * 4)
    arguments = ["--text", "text.txt", "--prompt-tokens", "64", "--decode-tokens", "2"]
    assert run_command(["capture", "--model", str(tiny_model_path), *arguments, "-o", output]) == 0
    printed = capsys.readouterr().out
    assert printed == line
    suggested = line.partition("`kvsim ")[2].rstrip("`\n")
    assert run_command([*shlex.split(suggested), "--no-figures"]) == 0
