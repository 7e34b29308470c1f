"""`kvsim sweep` and `kvsim whatif` as they are typed: what they print, keep, and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.cli import run_command
from tests.cli.typed import SMALL, refusal


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    typed = ["sweep", *SMALL, "-o", str(folder), "--workers", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["kvsim", *typed])  # the manifest keeps what was typed; whatif reads it there
        assert run_command(typed) == 0
    (result,) = (place.parent for place in folder.glob("**/summary.json"))
    return result


def test_a_sweep_keeps_table_summary_and_pictures(swept: Path) -> None:
    assert {"cells.parquet", "summary.json", "manifest.json"} <= {file.name for file in swept.iterdir()}
    assert any(file.suffix == ".png" for file in swept.iterdir())


def test_a_sweep_started_again_simulates_nothing_and_prints_the_same(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for _ in range(2):
        assert run_command(["sweep", *SMALL, "-o", str(tmp_path), "--workers", "1", "--no-figures", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["cells"] == found[1]["cells"] and len(found[0]["cells"]) > 0


def test_whatif_sets_the_changed_run_beside_the_first(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["whatif", str(swept), "--set", "profile.link_bandwidth=x2"]) == 0
    printed = capsys.readouterr().out
    cells = json.loads((swept / "summary.json").read_text())["cells"]
    assert run_command(["whatif", str(swept), "--set", "profile.link_bandwidth=x2", "--json"]) == 0
    changed = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["before"]["tpot_p50_s"] for cell in changed] == [cell["tpot_p50_s"] for cell in cells]
    for cell in changed:
        before_s, after_s = (cell[when]["tpot_p50_s"] for when in ("before", "after"))
        assert 0.5 * before_s < after_s < before_s
        (line,) = [line for line in printed.splitlines() if line.split()[:2] == [cell["policy"], _pages_of(cell)]]
        assert (
            f"{100 * cell['before']['stall_frac']:.1f}%" in line and f"{100 * cell['after']['stall_frac']:.1f}%" in line
        )


def _pages_of(cell: dict[str, Any]) -> str:
    return str(cell["budget.pages_per_layer"])


def test_whatif_finds_what_reaches_a_time(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--reach", "tpot_p50_s<=10", "--over", "budget.pages_per_layer=15:60", "--set", "run.policies=lru"]
    assert run_command(["whatif", str(swept), *options, "--json"]) == 0
    searched = json.loads(capsys.readouterr().out)
    (outcome,) = searched["found"]
    times_s = dict(outcome["tried"])
    assert (outcome["policy"], outcome["reached"], outcome["missed"]) == ("lru", 15, None)
    assert sorted(times_s) == [15, 60] and max(times_s.values()) == times_s[15] <= searched["most"] == 10


def test_whatif_halves_between_a_value_that_reaches_a_time_and_one_that_does_not(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--reach", "tpot_p50_s<=0.07", "--over", "budget.pages_per_layer=15:60", "--set", "run.policies=lru"]
    assert run_command(["whatif", str(swept), *options, "--json"]) == 0
    (outcome,) = json.loads(capsys.readouterr().out)["found"]
    times_s = dict(outcome["tried"])
    assert outcome["missed"] < outcome["reached"] <= outcome["missed"] + 1
    assert times_s[outcome["reached"]] <= 0.07 < times_s[outcome["missed"]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--reach", "tpot_p50_s=10", "--over", "budget.pages_per_layer=15:60"], "write --reach 'tpot_p50_s<=0.05'"),
        (["--reach", "tpot_p50_s<=10", "--over", "budget.pages_per_layer=15"], "--over KEY=LOW:HIGH"),
        (["--reach", "tpot_p50_s<=10"], "--reach and --over go together"),
        (["--over", "budget.pages_per_layer=15:60", "--set", "page_tokens=32"], "--reach and --over go together"),
        ([], "say what to change with --set, or what to reach with --reach and --over"),
        (["--set", "profile.link_bandwidt=x2"], "did you mean 'link_bandwidth'?"),
    ],
)
def test_whatif_refuses_in_one_line(
    swept: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refusal(capsys, "whatif", str(swept), *options)


def test_a_sweep_of_a_heat_map_over_one_field_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["sweep", *SMALL, "-o", str(tmp_path), "--workers", "1", "--heat", "policy"]) == 2
    assert "two different fields" in capsys.readouterr().err
