"""What a page shows of a result of an experiment that adds nothing of its own, and how cells become lines."""

from __future__ import annotations

from kvsim.report.html.parts import charts_of, own_parts
from kvsim.report.html.tables import own_columns
from kvsim.report.results import RunResult

CELLS = [
    {"policy": policy, "cache.size": size, "run.batch": batch, "hit_frac": 0.1 * size, "ttft_mean_s": 0.01 / size}
    for policy in ("lru", "fifo")
    for size in (1, 2, 3)
    for batch in (1, 4)
]


def test_an_unknown_experiment_shows_all_figures_and_draws_some() -> None:
    summary = {"kind": "new", "scenario": "s", "swept": ["cache.size", "run.batch"], "cells": CELLS}
    parts = own_parts(RunResult(summary=summary, rows={}, manifest={}))
    assert list(parts.columns) == ["policy", "cache.size", "run.batch", "hit_frac", "ttft_mean_s"]
    hits, ttft = parts.charts
    assert [view.name for view in hits.views] == ["batch 1", "batch 4"]
    assert [trace["y"] for trace in hits.views[0].traces] == [[10, 20, 30], [10, 20, 30]]
    assert ttft.views[1].traces[0]["x"] == [1, 2, 3]


def test_without_a_number_that_varies_there_are_bars() -> None:
    cells = [{"policy": name, "step_s": time_s} for name, time_s in (("lru", 0.001), ("fifo", 0.002))]
    (chart,) = charts_of(cells, {"step_s": "step"}, keys=["policy"])
    assert [(trace["orientation"], trace["x"]) for trace in chart.views[0].traces] == [("h", [1]), ("h", [2])]
    assert chart.views[0].layout["xaxis"]["title"]["text"] == "step, ms"


def test_a_figure_that_no_cell_has_is_not_drawn() -> None:
    assert charts_of([{"policy": "lru", "x": None}], {"x": "x", "y": "y"}, keys=["policy"]) == []


def test_the_reader_chooses_only_what_series_and_axis_leave_open() -> None:
    (chart,) = charts_of(
        CELLS, {"hit_frac": "hits"}, keys=["run.batch"], over="cache.size", series=lambda cell: str(cell["policy"])
    )
    assert [view.name for view in chart.views] == ["batch 1", "batch 4"]
    same = [cell for cell in CELLS if cell["run.batch"] == 1]
    (chart,) = charts_of(same, {"hit_frac": "hits"}, keys=["run.batch"], over="cache.size")
    assert [view.name for view in chart.views] == ["all cells"]


def test_columns_print_by_the_unit_of_their_name() -> None:
    row = {"a_bytes": 2048, "b_frac": 0.5, "c_s": 0.002, "d": True, "e_interval_s": [0.001, 0.002], "f": 12345}
    columns = own_columns([row])
    assert [columns[name].text(row[name]) for name in sorted(row)] == [
        "2 KiB",
        "50.0%",
        "2 ms",
        "yes",
        "1 ms to 2 ms",
        "12,345",
    ]
