"""Every experiment has a page: its figures have points, its table the summary's numbers."""

from __future__ import annotations

import pytest

from kvsim.experiments.pages import report_file
from kvsim.experiments.registry import EXPERIMENTS, load_scenario, simulate
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
