"""`kvsim report`, and the pages that other commands write: where they go, what `--csv` adds, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from kvsim.cli import run_command
from kvsim.report.html.tables import value_text
from kvsim.scenario.shipped import find_capture, find_profile
from tests.cli.typed import SMALL, refusal, result_of
from tests.report.html.reading import PageReader


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result_of(tmp_path_factory.mktemp("run"), "run", *SMALL)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result_of(tmp_path_factory.mktemp("other"), "run", *SMALL, "--set", "page_tokens=64", "--no-figures")


def test_a_run_writes_its_report_unless_figures_are_off(result: Path, other: Path) -> None:
    assert "report.html" in json.loads((result / "manifest.json").read_text())["files"]
    assert not (other / "report.html").exists()
    cells = json.loads((result / "summary.json").read_text())["cells"]
    rows = PageReader((result / "report.html").read_bytes()).tables["rows-0"]
    assert [row["tpot_p50_s"] for row in rows] == [value_text(cell["tpot_p50_s"]) for cell in cells]


def test_report_writes_into_the_folder_of_the_result(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["report", str(other)]) == 0
    assert capsys.readouterr().out == f"{other / 'report.html'}: written\n"
    (other / "report.html").unlink()


def test_csv_writes_every_table_with_exact_values(result: Path, tmp_path: Path) -> None:
    assert run_command(["report", str(result), "-o", str(tmp_path / "mine.html"), "--csv"]) == 0
    names = {f"mine-{table}.{kind}" for table in ("cells", "rows") for kind in ("csv", "parquet")}
    assert {file.name for file in tmp_path.iterdir()} == {"mine.html", *names}
    cells = json.loads((result / "summary.json").read_text())["cells"]
    for frame in (pd.read_csv(tmp_path / "mine-cells.csv"), pd.read_parquet(tmp_path / "mine-cells.parquet")):
        assert frame["tpot_p50_s"].tolist() == [cell["tpot_p50_s"] for cell in cells]
    rows = pd.read_parquet(result / "rows.parquet")
    assert pd.read_parquet(tmp_path / "mine-rows.parquet").equals(rows)
    assert len(pd.read_csv(tmp_path / "mine-rows.csv")) == len(rows)


def test_timeline_draws_the_spans_of_a_cell(result: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.html"
    assert run_command(["report", str(result), "-o", str(path), "--timeline", "1"]) == 0
    view = PageReader(path.read_bytes()).charts[-1]["views"][0]
    lanes = {lane for trace in view["traces"] for lane in trace["y"]}
    assert {"host", "compute", "to device"} <= lanes
    steps = pd.read_parquet(result / "rows.parquet")
    of_cell = steps[(steps["cell"] == 1) & (~steps["is_warmup"])].head(2)
    compute = [
        (b, x) for t in view["traces"] for y, b, x in zip(t["y"], t["base"], t["x"], strict=True) if y == "compute"
    ]
    end_ms = max(base + length for base, length in compute)
    assert end_ms == pytest.approx(1e3 * of_cell["step_s"].sum(), rel=1e-3)


def test_several_results_stand_side_by_side(result: Path, other: Path, tmp_path: Path) -> None:
    path = tmp_path / "both.html"
    assert run_command(["report", str(result), str(other), "-o", str(path)]) == 0
    rows = PageReader(path.read_bytes()).tables["rows-0"]
    first, second = (json.loads((one / "summary.json").read_text())["cells"] for one in (result, other))
    assert len(rows) == len(first) == len(second)
    for row, a, b in zip(rows, first, second, strict=True):
        assert row["A smollm2_cpu.tpot_p50_s"] == value_text(a["tpot_p50_s"])
        assert row["B smollm2_cpu.tpot_p50_s"] == value_text(b["tpot_p50_s"])
        change = float(row["B smollm2_cpu.tpot_p50_change_frac"])
        assert change == pytest.approx(b["tpot_p50_s"] / a["tpot_p50_s"] - 1)


def test_compare_takes_several_results(
    result: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["compare", str(result), str(other), "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"A smollm2_cpu: {result}" in printed and "TPOT ms p50" in printed
    kinds = ("html", "json", "csv", "parquet")
    assert {file.name for file in tmp_path.iterdir()} == {f"compare.{kind}" for kind in kinds}
    assert run_command(["compare", str(result), str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "compare.json").read_text())


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["report", "{a}", "{b}"], "report: a page of several results needs a name: add -o FILE.html"),
        (["report", "{a}", "{a}", "-o", "x.html"], "named twice; name each result once"),
        (["report", "{a}", "{a}/../{a.name}", "-o", "x.html"], "named twice; name each result once"),
        (["report", "nowhere"], "nowhere: no such result folder"),
        (["report", "{a}/rows.parquet"], "rows.parquet: no result; name the folder of one, a trace"),
        (["report", "{a}/summary.json", "--csv"], "--csv and --timeline are for the folder of a result"),
        (["report", "{a}", "{b}", "-o", "x.html", "--timeline", "0"], "report: --timeline is for one result"),
        (["report", "{a}", "-o", "x.html", "--timeline", "99"], "99"),
        (["compare", "{a}"], "compare: name two results or more"),
    ],
)
def test_what_cannot_be_is_one_line(
    result: Path,
    other: Path,
    typed: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refusal(capsys, *(part.format(a=result, b=other) for part in typed))
    assert not (tmp_path / "x.html").exists()


def test_trace_info_and_profile_show_write_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["trace", "info", "smollm2-docs", "-o", "out"]) == 0
    assert run_command(["profile", "show", "h200-llama-3-8b-published", "-o", "out"]) == 0
    trace = PageReader((tmp_path / "out" / "trace-smollm2-docs.html").read_bytes())
    profile = PageReader((tmp_path / "out" / "profile-h200-llama-3-8b-published.html").read_bytes())
    assert len(trace.tables["rows-0"]) == 30 and len(trace.charts) == 4
    assert {"segments.attention", "link.to_device"} <= {row["cost"] for row in profile.tables["rows-0"]}
    assert all(view["traces"] for view in profile.charts[0]["views"])


def test_report_of_a_trace_or_a_profile_is_the_page_that_their_commands_write(tmp_path: Path) -> None:
    trace, profile = tmp_path / "mine.kvtrace", tmp_path / "mine.toml"
    shutil.copy(find_capture("smollm2-docs"), trace)
    shutil.copy(find_profile("h200-llama-3-8b-published"), profile)
    assert run_command(["trace", "info", str(trace), "-o", str(tmp_path / "out")]) == 0
    assert run_command(["profile", "show", str(profile), "-o", str(tmp_path / "out")]) == 0
    for file, written in ((trace, "trace-mine.html"), (profile, "profile-h200-llama-3-8b-published.html")):
        assert run_command(["report", str(file), "-o", str(tmp_path / "own.html")]) == 0
        own, expected = (PageReader(page.read_bytes()) for page in (tmp_path / "own.html", tmp_path / "out" / written))
        assert own.tables == expected.tables and own.charts == expected.charts
    assert run_command(["report", str(profile)]) == 0
    assert PageReader((tmp_path / "mine.html").read_bytes()).tables == own.tables
