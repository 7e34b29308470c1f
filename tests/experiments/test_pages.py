"""Every experiment has a page: its figures have points, its table the summary's numbers."""

from __future__ import annotations

import pytest

from kvsim.experiments.comparison_page import with_page
from kvsim.experiments.pages import report_file
from kvsim.experiments.registry import EXPERIMENTS, load_scenario, simulate
from kvsim.report.comparison import Compared
from kvsim.report.html.tables import value_text
from kvsim.report.results import RunResult
from kvsim.scenario.shipped import find_scenario
from tests.report.html.reading import PageReader

SMALL = {
    "decode": ("smollm2_cpu", ["trace.num_steps=12", "run.policies=lru,stream", "budget.pages_per_layer=[20, 60]"]),
    "prefix-blocks": ("prefix_blocks", ['cache.policy=["lru", "fifo"]', "cache.budget_frac=[0.01, 0.2]"]),
    "prompt-cache": ("prompt_cache", ["prompts.document_tokens=[4, 64, 256]"]),
    "kv-on-off": ("kv_on_off", ["run.batch=[1, 2]", "run.prompt_tokens=[32, 64]"]),
    "prompt-modules": ("prompt_modules", ['cache.tier=["device"]']),
    "embedding-rows": ("embedding_cache", []),
    "serving": ("serving", ["arrivals.rate_hz=[0.1, 0.3]", "trace.num_requests=40"]),
}
"""A shipped scenario of each experiment and what makes it small."""


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_the_page_of_every_experiment(kind: str) -> None:
    if kind not in SMALL:
        pytest.fail(f"{kind} has no small scenario here: add one")
    name, changes = SMALL[kind]
    loaded = load_scenario(find_scenario(name), changes)
    result = simulate(loaded, loaded.job(command="kvsim run"))
    read = PageReader(report_file(result)["report.html"])
    cells = result.summary["cells"]
    for row, cell in zip(read.tables["rows-0"], cells, strict=True):
        assert {n: v.removeprefix("-") for n, v in row.items()} == {
            n: value_text(cell.get(n)).removeprefix("-") for n in row
        }
    assert read.charts
    for chart in read.charts:
        for view in chart["views"]:
            points = [y for trace in view["traces"] for y in (*trace["x"], *trace["y"])]
            assert points, (kind, view["name"])


def test_a_result_of_no_known_experiment_has_a_page() -> None:
    summary = {"kind": "new", "scenario": "s", "swept": [], "cells": [{"policy": "lru", "x_s": 0.5}], "verdict": []}
    read = PageReader(report_file(RunResult(summary=summary, rows={}, manifest={}))["report.html"])
    assert read.tables["rows-0"] == [{"policy": "lru", "x_s": "0.5"}]


def test_a_comparison_has_a_page_of_both_sides() -> None:
    cells = [
        {
            "policy": policy,
            "tpot_simulated_s": 0.01,
            "tpot_measured_s": measured_s,
            "tpot_error_frac": 0.01 / measured_s - 1,
        }
        for policy, measured_s in (("lru", 0.0125), ("fifo", 0.008))
    ]
    contents = {"cells": cells, "counts_equal": False, "tpot_median_error_frac": 0.225, "tpot_worst_error_frac": 0.25}
    compared = Compared(contents=contents, text="as printed", files={"compare.json": b"{}"}, missed=("tau",))
    simulated, measured = (
        RunResult(summary={"scenario": "s", "cells": [], "is_measured": is_measured}, rows={}, manifest={})
        for is_measured in (False, True)
    )
    files = with_page(simulated, measured, compared).files
    assert set(files) == {"compare.json", "compare.html"}
    read, text = PageReader(files["compare.html"]), files["compare.html"].decode()
    assert next(iter(read.tables["rows-0"][0].items())) == ("policy", "lru")
    assert [row["tpot_measured_s"] for row in read.tables["rows-0"]] == ["0.0125", "0.008"]
    lru, fifo, _ = read.charts[0]["views"][0]["traces"]
    assert (lru["x"], lru["y"], fifo["x"]) == ([12.5], [10], [8])
    for line in ("Counts equal: NO.", "tpot: median error 22.5%, worst +25.0%.", "Targets missed: tau.", "as printed"):
        assert line in text
