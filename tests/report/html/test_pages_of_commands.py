"""The pages of `plan`, `trace info` and `profile show` in a headless Chromium: no error, no request, every figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvsim.cli import run_command

PLAN = ["plan", "--model", "deepseek-v3", "--gpu", "h200", "--context", "64k"]
SIMULATED = ["plan", "--model", "qwen3-8b", "--gpu", "rtx-4090", "--context", "32k", "--batch", "4"]
COMMANDS = {
    "plan, a lower bound": ([*PLAN, "--report", "{folder}/page.html"], 2),
    "plan, simulated": ([*SIMULATED, "--report", "{folder}/page.html"], 3),
    "trace info": (["trace", "info", "smollm2-docs", "-o", "{folder}"], 4),
    "profile show": (["profile", "show", "h200-llama-3-8b-published", "-o", "{folder}"], 1),
}
"""What writes a page, and how many figures it has."""
MARKS = "'.scatterlayer .trace path, .barlayer .point path'"
SIZED = "path.getBoundingClientRect().width > 0"


@pytest.mark.parametrize("name", COMMANDS)
def test_it_opens_without_errors_or_requests_and_draws_every_figure(name: str, browser: Any, tmp_path: Path) -> None:
    command, num_figures = COMMANDS[name]
    assert run_command([part.format(folder=tmp_path) for part in command]) == 0
    (page,) = tmp_path.glob("*.html")
    browser.errors.clear()
    browser.requests.clear()
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.open(page)
        marks = browser.evaluate(
            "[...document.querySelectorAll('[data-plot]')].map((plot) => "
            f"[...plot.querySelectorAll({MARKS})].filter((path) => {SIZED}).length)"
        )
        assert len(marks) == num_figures and all(marks)
    assert browser.errors == []
    assert [one for one in browser.requests if not one.startswith(("file:", "data:"))] == []


def test_the_rows_of_a_plan_stand_in_the_order_of_its_table(browser: Any, tmp_path: Path) -> None:
    assert run_command([*SIMULATED, "--report", str(tmp_path / "page.html")]) == 0
    browser.open(tmp_path / "page.html")
    table = "[...document.querySelectorAll('#rows-0 tbody tr')].map((row) => row.cells[0].textContent)"
    for plot in (0, 1):
        ticks = f"[...document.querySelectorAll('[data-plot=\"{plot}\"] .ytick text')]"
        places = f"{ticks}.map((tick) => [tick.getBoundingClientRect().top, tick.textContent])"
        drawn = [text for _, text in sorted(browser.evaluate(places))]
        assert drawn == browser.evaluate(table)
