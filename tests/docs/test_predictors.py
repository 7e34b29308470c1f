"""docs/predictors.md shows the measured steps that are committed, and these say what the page says."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean

from tests.scripts import ROOT, load_script


def test_the_tables_are_those_of_the_committed_measurement() -> None:
    predictors = load_script("docs/predictors.py")
    text = (ROOT / "docs" / "predictors.md").read_text(encoding="utf-8")
    assert f"{predictors.BEGIN}{predictors.written()}{predictors.END}" in text, "run: python docs/predictors.py"


def test_the_predictive_step_is_the_fastest_of_those_that_can_be_run() -> None:
    """The claims of the page and the README, on the measured steps of every text."""
    cells = load_script("docs/predictors.py").cells()

    def measured(text: str, budget: int) -> Callable[[str], float]:
        own = {
            one["policy"]: float(one["tpot_measured_s"])
            for one in cells
            if one["text"] == text and one["budget.pages_per_layer"] == budget
        }
        return own.__getitem__

    texts = sorted({one["text"] for one in cells})
    assert len(texts) == 3
    tight = [measured(text, 12) for text in texts]
    assert mean(step_s("predictive") / step_s("attention") for step_s in tight) <= 0.95
    assert mean(step_s("predictive") / step_s("lru") for step_s in tight) <= 0.80
    assert mean(step_s("predictive") / step_s("oracle-prefetch") for step_s in tight) <= 1.10
    for step_s in tight:
        runnable = {"lru", "previous-step", "window-union", "attention", "speculation", "corrected"}
        assert step_s("predictive") < min(step_s(name) for name in runnable)
