"""The page of a plan has the numbers of its JSON, in the table and in the figures, and what they rest on."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import kvsim
from kvsim.cli import run_command
from kvsim.report.html.tables import value_text
from tests.experiments.running import printed_json, refused
from tests.report.html.reading import PageReader

SIMULATED = ["plan", "--model", "qwen3-8b", "--gpu", "rtx-4090", "--context", "32k", "--batch", "4"]
ROOFLINE = ["plan", "--model", "deepseek-v3", "--gpu", "h200", "--context", "64k", "--tpot", "50ms"]


def answered(command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict, PageReader, str]:
    page = folder / "plan.html"
    answer = printed_json(capsys, *command, "--report", str(page))
    return answer, PageReader(page.read_bytes()), page.read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [SIMULATED, ROOFLINE], ids=["simulated", "roofline"])
def test_the_numbers_of_the_page_are_those_of_the_json(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer, page, text = answered(command, tmp_path, capsys)
    options, memory = page.tables["rows-0"], page.tables["rows-1"]
    assert len(options) == len(answer["options"])
    for option, row in zip(answer["options"], options, strict=True):
        assert set(row) == {*option, "state"}
        for name, value in option.items():
            assert row[name].removeprefix("-") == value_text(value), name
        assert (row["state"] == "recommended") is (option["name"] == answer["recommended"])
    sizes = {row["part"]: int(row["size_bytes"]) for row in memory}
    assert sizes["total"] == answer["memory"]["total_bytes"] and sizes["KV cache"] == answer["memory"]["kv_bytes"]
    assert all(sentence.split("; ")[0] in text for sentence in answer["recommendation"])
    assert len(text) < 5_000_000


def test_the_figures_draw_every_option_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer, page, _ = answered(SIMULATED, tmp_path, capsys)
    memory, times, recall = (chart["views"][0]["traces"] for chart in page.charts)
    by_name = {option["name"]: option for option in answer["options"]}
    drawn = {name: (trace, place) for trace in times for place, name in enumerate(trace["y"])}
    assert set(drawn) == set(by_name) and sum(len(trace["y"]) for trace in times) == len(by_name)
    unit_s = {"ms": 1e-3, "s": 1.0}[page.charts[1]["views"][0]["layout"]["xaxis"]["title"]["text"].rpartition(" ")[2]]
    for name, (trace, place) in drawn.items():
        low_s, high_s = by_name[name]["tpot_interval_s"]
        at = trace["x"][place]
        assert at * unit_s == pytest.approx(by_name[name]["tpot_s"], rel=1e-4)
        assert (at - trace["error_x"]["arrayminus"][place]) * unit_s == pytest.approx(low_s, rel=1e-4)
        assert (at + trace["error_x"]["array"][place]) * unit_s == pytest.approx(high_s, rel=1e-4)
    gib = {name: x for trace in memory for name, x in zip(trace["y"], trace["x"], strict=True)}
    assert gib == {name: pytest.approx(option["device_bytes"] / 2**30, rel=1e-5) for name, option in by_name.items()}
    recalls = {name: y for trace in recall for name, y in zip(trace["hovertext"], trace["y"], strict=True)}
    assert recalls == {
        name: pytest.approx(100 * (option["recall_frac"] or 1.0), rel=1e-5) for name, option in by_name.items()
    }


def test_provenance_has_command_sources_and_the_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, text = answered(SIMULATED, tmp_path, capsys)
    parts = ("Qwen3-8B", "aiconfigurator-core 0.12.0", "1,008 GB/s", "[selector]", "kvsim calibrate --shape qwen3-8b")
    assert [part for part in parts if part not in text] == []


def test_the_library_makes_the_same_page() -> None:
    made = kvsim.plan("deepseek-v3", "h200", context_tokens=65_536)
    rows = PageReader(made.report()).tables["rows-0"]
    assert [row["name"] for row in rows] == made.options["name"].tolist()


def test_a_page_that_cannot_be_written_is_refused_before_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*ROOFLINE, "--report", "/proc/plan.html"]) == 2
    captured = capsys.readouterr()
    assert "cannot be written" in captured.err and captured.out == ""


def test_csv_and_parquet_have_the_numbers_of_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer, _, _ = answered([*ROOFLINE, "--csv"], tmp_path, capsys)
    tables = {f"plan-{table}.{kind}" for table in ("options", "memory") for kind in ("csv", "parquet")}
    assert {file.name for file in tmp_path.iterdir()} == {"plan.html", *tables}
    for frame in (pd.read_csv(tmp_path / "plan-options.csv"), pd.read_parquet(tmp_path / "plan-options.parquet")):
        assert frame["tpot_s"].tolist() == [option["tpot_s"] for option in answer["options"]]
    assert "add --report FILE.html" in refused(capsys, *ROOFLINE, "--csv")
