"""The cross-check as a user runs it, on a tiny model: in sample, out of sample, with a profile that may be stale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.calibration.staleness import Verdict
from kvsim.cli import run_command
from kvsim.errors import TraceError
from kvsim.experiments.decode import fresh_profile as wiring
from kvsim.experiments.decode.crosscheck import accesses_in
from kvsim.experiments.decode.report.targets import verdict_lines
from kvsim.experiments.decode.simulate import simulate
from kvsim.experiments.types import Job
from kvsim.profile.profile import load_profile
from kvsim.scenario.decode import load_scenario
from tests.experiments.decode.measured import written

SMALL = ("--set", "run.batch=1", "--set", "measure.num_steps=10", "--set", "measure.repeats=1")


@pytest.fixture(scope="module")
def scenario_file(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("crosscheck"), tiny_model_path, date="2026-11-21T00:00:00+00:00")


def result_in(folder: Path) -> Path:
    (manifest,) = folder.glob("*/*/manifest.json")
    return manifest.parent


@pytest.fixture(scope="module")
def measured(scenario_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    assert run_command(["measure", str(scenario_file), *SMALL, "-o", str(folder)]) == 0
    return result_in(folder)


@pytest.fixture(scope="module")
def other(scenario_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a result that recorded another text, and measured little."""
    folder = tmp_path_factory.mktemp("other")
    options = ["--set", "measure.text=other.txt", "--set", 'run.policies=["resident"]']
    assert run_command(["measure", str(scenario_file), *SMALL, *options, "-o", str(folder)]) == 0
    return result_in(folder)


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int) -> tuple[str, str]:
    capsys.readouterr()
    assert run_command(list(arguments)) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_both_comparisons_stand_in_one_object(
    scenario_file: Path, measured: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--measured", str(measured), "--trace-from", str(other), "-o", str(tmp_path)]
    out, _ = said(capsys, "crosscheck", str(scenario_file), *SMALL, *places, "--json", code=0)
    found: dict[str, Any] = json.loads(out)
    assert found["counts_equal"] is True
    assert found["num_cells"] == found["out_of_sample_num_cells"] == len(found["out_of_sample_cells"]) == 6
    assert found["out_of_sample_misses_median_error_frac"] > 0
    assert found["out_of_sample_hit_error_points"] > 0
    assert found["out_of_sample_tpot_median_error_frac"] > 0
    written = {path.name for path in tmp_path.glob("*/*/*")}
    assert {"compare.parquet", "out_of_sample.parquet", "out_of_sample.png", "out_of_sample.json"} <= written


def test_strict_ends_with_one_where_a_target_is_missed_and_says_which(
    scenario_file: Path, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A made-up profile of a tiny model is far off: without --strict that is only printed."""
    places = ["--measured", str(measured), "-o", str(tmp_path)]
    out, _ = said(capsys, "crosscheck", str(scenario_file), *SMALL, *places, code=0)
    closing = next(line for line in out.splitlines() if line.startswith("targets met: "))
    assert "; missed: " in closing
    _, err = said(capsys, "crosscheck", str(scenario_file), *SMALL, *places, "--strict", code=1)
    assert err.splitlines()[-1] == f"targets missed: {closing.partition('; missed: ')[2]}"
    as_json, _ = said(capsys, "crosscheck", str(scenario_file), *SMALL, *places, "--strict", "--json", code=1)
    targets = {target["name"]: target["is_met"] for target in json.loads(as_json)["targets"]}
    assert targets["counts equal"] is True
    assert [name for name, is_met in targets.items() if is_met is False] == closing.partition("; missed: ")[2].split(
        "; "
    )


def test_a_comparison_that_meets_every_target_says_so_and_misses_none() -> None:
    figures = {
        "counts_equal": True,
        "tpot_median_error_frac": 0.03,
        "tpot_worst_error_frac": -0.2,
        "worst_within_spread": True,
        "added_median_error_frac": None,
        "best_null_median_error_frac": 0.4,
        "paged_median_error_frac": 0.1,
        "additive_null_median_error_frac": 0.08,
        "stall_cells_frac": 0.4,
        "kendall_tau": 0.95,
        "kendall_pairs": 20,
        "interval_coverage_frac": 0.9,
    }
    assert verdict_lines(figures)[-1] == "targets met: 7 of 7"
    for name, value in (("interval_coverage_frac", 1.0), ("kendall_pairs", 19), ("paged_median_error_frac", 0.2)):
        assert verdict_lines(figures | {name: value})[-1].startswith("targets met: 6 of 7; missed: ")


def test_simulation_of_another_text_is_compared_only_where_that_is_asked_for(
    scenario_file: Path, measured: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "run", str(scenario_file), *SMALL, "--trace", str(other), "-o", str(tmp_path), code=0)
    simulated = result_in(tmp_path)
    _, err = said(capsys, "compare", str(simulated), str(measured), code=2)
    assert "replayed other accesses" in err
    assert err.count("\n") == 1
    out, _ = said(capsys, "compare", str(simulated), str(measured), "--out-of-sample", code=0)
    assert "accesses recorded with" in out
    assert "other.txt" in out
    assert "counts equal" not in out


def test_own_accesses_are_not_out_of_sample(
    scenario_file: Path, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--measured", str(measured), "--trace-from", str(measured), "-o", str(tmp_path)]
    _, err = said(capsys, "crosscheck", str(scenario_file), *SMALL, *places, code=2)
    assert "so it is in sample" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("measure.prompt_tokens=140", "no accesses for 140 tokens of prompt: "),
        ("measure.num_steps=12", "has 10 steps, measured are 12"),
        ("page_tokens=32", "has no estimate:quest@32"),
        ("selector.k_pages=4", "was recorded under another selector"),
    ],
)
def test_accesses_that_do_not_fit_are_told_before_anything_is_measured(
    scenario_file: Path, other: Path, option: str, complaint: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    scenario = load_scenario(scenario_file, ["run.batch=1", "measure.num_steps=10", option])
    find = accesses_in(other)
    with pytest.raises(TraceError, match=complaint) as caught:
        find(scenario)
    assert "\n" not in str(caught.value)
    arguments = [*SMALL, "--set", option, "--trace-from", str(other), "-o", str(tmp_path)]
    _, err = said(capsys, "crosscheck", str(scenario_file), *arguments, code=2)
    assert complaint in err
    assert not list(tmp_path.iterdir())


def test_capture_of_one_sequence_stands_for_a_batch_and_for_any_selector(
    scenario_file: Path, tiny_model_path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "dense.kvtrace"
    lengths = ["--prompt-tokens", "150", "--decode-tokens", "14", "--channel", "estimate:quest@16"]
    text = str(scenario_file.parent / "other.txt")
    assert run_command(["capture", "--model", str(tiny_model_path), "--text", text, *lengths, "-o", str(file)]) == 0
    for option in ("run.batch=2", "selector.k_pages=4"):
        assert accesses_in(tmp_path)(load_scenario(scenario_file, [option])) == file
        assert accesses_in(file)(load_scenario(scenario_file, [option])) == file
    scenario = load_scenario(scenario_file, ["run.batch=2", "measure.num_steps=10", 'run.policies=["lru"]'])
    rows = simulate(scenario, Job(base_dir=scenario_file.parent, recorded=file)).rows
    assert rows["step"].max() == 9  # of 14 that the capture holds


def test_place_without_traces_says_where_some_are(other: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such folder or trace"):
        accesses_in(tmp_path / "nowhere")
    with pytest.raises(TraceError, match=rf"holds no trace; did you mean {other}\?"):
        accesses_in(other.parent)
    with pytest.raises(TraceError, match=r"holds no trace$"):
        accesses_in(tmp_path)


def fresh(scenario_file: Path, folder: Path, recalibrate: bool | None, said: list[str]) -> Path | None:
    return wiring.fresh_profile(
        load_scenario(scenario_file),
        Job(base_dir=scenario_file.parent),
        folder,
        recalibrate=recalibrate,
        say=said.append,
        progress=lambda stage, done, total: None,
    )


@pytest.fixture
def calibrations(scenario_file: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of profiles that were calibrated, of none of which anything is timed."""
    made: list[str] = []
    own = load_profile(scenario_file.parent / "p.toml")

    def calibrate(model: object, *, name: str, **options: object) -> Any:
        made.append(name)
        return own.model_copy(update={"name": name})

    monkeypatch.setattr(wiring, "calibrate", calibrate)
    return made


def judge_by(monkeypatch: pytest.MonkeyPatch, *stale: str) -> None:
    def judge(profile: Any, shape: object, model: object) -> Verdict:
        return Verdict(is_stale=profile.name in stale, line=f"profile {profile.name}")

    monkeypatch.setattr(wiring, "judge", judge)


def test_stale_profile_is_calibrated_once_and_the_new_one_is_asked_next_time(
    scenario_file: Path, calibrations: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[str] = []
    judge_by(monkeypatch, "test")
    file = fresh(scenario_file, tmp_path, None, told)
    assert file == tmp_path / "profile-tiny.toml"
    assert load_profile(file).name == "tiny-cpu"
    assert fresh(scenario_file, tmp_path, None, told) == file
    assert calibrations == ["tiny-cpu"]
    assert told == ["profile test; calibrating", "profile tiny-cpu"]


def test_profile_that_holds_is_used_as_the_scenario_names_it(
    scenario_file: Path, calibrations: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    judge_by(monkeypatch)
    assert fresh(scenario_file, tmp_path, None, []) is None
    assert calibrations == []


def test_flags_force_both_ways_and_a_stale_profile_is_told_all_the_same(
    scenario_file: Path, calibrations: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[str] = []
    judge_by(monkeypatch)
    assert fresh(scenario_file, tmp_path, True, told) is not None
    assert (calibrations, told) == (["tiny-cpu"], [])
    assert fresh(scenario_file, tmp_path, False, told) is None
    (line,) = told
    assert line.startswith("profile test is stale: ")
    assert "used all the same (--no-calibrate)" in line
    assert calibrations == ["tiny-cpu"]
