"""Every figure keeps the range that its name states: checked where results are made, for every experiment."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kvsim.errors import ResultError
from kvsim.report.ranges import RangeError, check_ranges
from kvsim.report.results import RunResult, load_result, write_result
from kvsim.scenario.digest import file_digest


def made(cell, rows=None):
    summary = {"scenario": "a", "kind": "prefix-blocks", "cells": [cell]}
    return RunResult(summary=summary, rows=rows or {"cell": np.zeros(1, dtype=np.int64)}, manifest=MANIFEST)


MANIFEST = {"schema_version": 1, "run_id": "run"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ttft_hit_s", -0.284),
        ("restore_hit_s", -1e-9),
        ("speedup", -7.5),
        ("speed_vs_resident", -1.0),
        ("kept_bytes", -1),
        ("hits", -1),
        ("num_requests", -1),
        ("least_link_bytes_per_s", -1.0),
        ("hit_frac", 1.01),
        ("stall_frac", -0.01),
        ("tpot_mean_s", float("nan")),
        ("tokens_per_s", float("inf")),
        ("tpot_interval_s", (-0.1, 0.2)),
    ],
)
def test_a_result_with_a_figure_outside_its_range_cannot_be_made(name, value) -> None:
    with pytest.raises(RangeError, match=rf"cells\[0\]\.{name}.*error in kvsim"):
        made({name: value})


@pytest.mark.parametrize(
    "cell",
    [
        {"ttft_saved_frac": -0.2, "error_frac": -0.5, "gain_repeats_s": [-1.0], "saved_bytes": -1},
        {"instrument_overhead_frac": -0.02, "prefill_load_frac": 3.0, "moved_vs_lru_frac": 1.26},
        {"hit_frac": None, "fits": True, "policy": "lru", "mass_recall_frac": 1.0},
    ],
)
def test_differences_have_a_sign_ratios_no_upper_end_and_what_does_not_apply_is_none(cell) -> None:
    made(cell)


def test_rows_are_checked_by_their_columns_and_may_hold_nan() -> None:
    made({}, {"cell": np.zeros(2, dtype=np.int64), "stall_s": np.array([np.nan, 0.0])})
    with pytest.raises(RangeError, match="a row's stall_s"):
        made({}, {"cell": np.zeros(2, dtype=np.int64), "stall_s": np.array([np.nan, -1.0])})


def test_a_written_result_with_such_a_figure_is_refused_in_one_line(tmp_path) -> None:
    folder = write_result(made({"ttft_hit_s": 0.5}), tmp_path)
    text = (folder / "summary.json").read_text().replace("0.5", "-0.5")
    (folder / "summary.json").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["summary.json"] = file_digest(folder / "summary.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ResultError, match=r"cells\[0\]\.ttft_hit_s is -0.5") as refused:
        load_result(folder)
    assert "\n" not in str(refused.value)


def test_figures_are_checked_wherever_they_are_in_a_summary() -> None:
    check_ranges({"break_evens": [{"gains_s": [-1.0], "from_tokens": 12.0}]}, {})
    with pytest.raises(RangeError, match=r"prompts\[1\]\.ttft_s"):
        check_ranges({"prompts": [{"ttft_s": 1.0}, {"ttft_s": -1.0}]}, {})
