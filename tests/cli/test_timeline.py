"""`kvsim timeline` from a scenario to the file: simulated alone, and simulated and measured one above the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from kvsim.cli import run_command
from kvsim.profile.profile import load_profile, write_profile
from tests.cli.typed import refusal
from tests.experiments.decode.measured import scenario_file  # noqa: F401


def written(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def total_us(events: list[dict[str, Any]], pid: int, lane: str) -> float:
    return sum(e["dur"] for e in events if e["ph"] == "X" and e["pid"] == pid and e["cat"] == lane)


def test_simulated_timeline_of_a_shipped_scenario(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "new" / "t.json"
    options = ["trace.num_steps=10", "profile.path=h200-llama-3-8b-published", "profile.allow_other_shape=true"]
    arguments = [part for option in options for part in ("--set", option)]
    arguments += ["--cell", "3", "--steps", "8:10", "-o", str(file)]
    assert run_command(["timeline", "crosscheck_quick", *arguments]) == 0
    assert capsys.readouterr().out == f"{file}: written; open it in https://ui.perfetto.dev\n"
    contents = written(file)
    events = contents["traceEvents"]
    assert (contents["otherData"]["scenario"], contents["otherData"]["cell"]) == ("crosscheck_quick", 3)
    assert {e["pid"] for e in events} == {1}
    assert [e["name"] for e in events if e.get("cat") == "steps"] == ["step 8", "step 9"]
    assert {e["cat"] for e in events if e["ph"] == "X"} >= {"steps", "host", "compute", "to device"}
    assert total_us(events, 1, "compute") == pytest.approx(total_us(events, 1, "steps"), rel=1e-3)


@pytest.mark.parametrize("cell", [1, 2])
def test_measured_and_simulated_stand_one_above_the_other(
    scenario_file: Path,  # noqa: F811
    tmp_path: Path,
    cell: int,
) -> None:
    file = tmp_path / "t.json"
    arguments = ["timeline", str(scenario_file), "--cell", str(cell), "--steps", "9:12", "--measured", "-o", str(file)]
    assert run_command(arguments) == 0
    events = written(file)["traceEvents"]
    steps = {pid: [e for e in events if e.get("cat") == "steps" and e["pid"] == pid] for pid in (1, 2)}
    for simulated, measured in zip(steps[1], steps[2], strict=True):
        assert simulated["name"] == measured["name"]
        counts = {name: value for name, value in simulated["args"].items() if name != "late"}
        assert counts == {name: measured["args"][name] for name in counts}  # of the same accesses
    assert steps[1][0]["ts"] == steps[2][0]["ts"]
    assert sum(step["args"]["misses"] for step in steps[1]) > 0
    for pid in (1, 2):
        lanes = {e["cat"] for e in events if e["ph"] == "X" and e["pid"] == pid}
        assert lanes >= {"steps", "host", "compute", "to device", "to host"}  # a page fills at 160 tokens
        assert total_us(events, pid, "compute") == pytest.approx(total_us(events, pid, "steps"), rel=1e-3)
    demanded = {
        pid: [
            (e["args"]["step"], e["args"]["layer"], e["args"]["pages"])
            for e in events
            if e["name"] == "demand" and e["pid"] == pid and e["args"]["step"] in range(9, 12)
        ]
        for pid in (1, 2)
    }
    assert demanded[1] == demanded[2] != []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--cell", "12"], "tiny: no cell 12; there are 12, 0 to 11"),
        (["--steps", "12:15"], "steps 12:15: the run has 14, 0 to 13"),
        (["--steps", "x"], "steps 'x': write 3 for step 3, or 3:5 for the steps from 3 up to, not including, 5"),
        (
            ["--set", "profile.path=gpu.toml"],
            "tiny: profile 'test' is of a machine whose host runs ahead of its device",
        ),
    ],
)
def test_what_cannot_be_shown_is_told_in_a_line(
    scenario_file: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    complaint: str,
) -> None:
    profile = load_profile(scenario_file.parent / "p.toml")
    write_profile(profile.model_copy(update={"synchronous": False}), scenario_file.parent / "gpu.toml")
    file = tmp_path / "t.json"
    said = refusal(capsys, "timeline", str(scenario_file), "--measured", *options, "-o", str(file))
    assert said.startswith(complaint)
    assert not file.exists()
