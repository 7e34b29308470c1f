"""Pages that the tests of this folder read: a made-up result of decode, once plain and once with hostile names."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest

from kvsim.experiments.pages import report_file
from kvsim.report.results import RunResult

HOSTILE = "</script><b onclick='x'>\"&lt;"
MANIFEST = {
    "run_id": "run-1",
    "command": "kvsim run long_context",
    "date": "2026-11-28T09:39:28+00:00",
    "commit": "0123abc",
    "seed": 7,
    "machine": {"host": "here", "num_cpus": 2},
    "versions": {"kvsim": "0.1.0", "numpy": "2.4"},
    "inputs": [{"role": "profile", "name": "p", "digest": "feedc0de", "covers": "the whole file"}],
    "scenario": "# the scenario file\n",
}


def many_cells(result: RunResult, num_copies: int) -> RunResult:
    """The cells of a result many times over, no two alike, with figures that compress as badly as measured ones."""
    cells = [
        dict(cell, budget_pages=number, tpot_p50_s=draw.random(), stall_frac=draw.random())
        for draw in [random.Random(7)]
        for number in range(num_copies)
        for cell in result.summary["cells"]
    ]
    return RunResult(summary=result.summary | {"cells": cells}, rows={}, manifest=result.manifest)


@pytest.fixture(scope="session")
def result(make_run) -> RunResult:
    summary, rows = make_run(contexts=(32_768, 65_536), budgets=(0.1, 0.5))
    return RunResult(summary=summary, rows=rows, manifest=MANIFEST)


@pytest.fixture(scope="session")
def hostile(make_run) -> RunResult:
    """The same with names that would break out of markup, script and figure labels."""
    summary, rows = make_run(contexts=(32_768,), budgets=(0.1,), policies=("resident", "lru"))
    summary = copy.deepcopy(summary) | {"scenario": HOSTILE, "question": HOSTILE, "verdict": [f"`{HOSTILE}` wins"]}
    summary["cells"][1]["policy"] = HOSTILE
    rows = rows | {"policy": rows["policy"].copy()}
    rows["policy"][rows["cell"] == 1] = HOSTILE
    return RunResult(summary=summary, rows=rows, manifest=MANIFEST | {"command": HOSTILE, "scenario": HOSTILE})


@pytest.fixture(scope="session")
def page(result: RunResult) -> bytes:
    return report_file(result)["report.html"]


@pytest.fixture(scope="session")
def hostile_page(hostile: RunResult) -> bytes:
    return report_file(hostile)["report.html"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; skips where there is none."""
    pytest.importorskip("websocket", reason="websocket-client is not installed: it drives the browser")
    from tests.report.html.browser import Browser, find_chromium  # noqa: PLC0415 - needs websocket-client

    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium on the path: on Debian, apt-get install chromium")
    with Browser(program) as found:
        yield found
