"""What the predictors' table says: means of held-out texts, and whether the target is reached."""

from __future__ import annotations

from typing import Any

import pytest
from predictors_parts.report import predictors_frame, predictors_verdict


def _record(predictor: str, *, capture: str = "held-out", tuned: bool = False, **figures: float) -> dict[str, Any]:
    values = {"recall": 0.7, "stall": 8.0, "select": 10.0, "step": 80.0} | figures
    return {
        "capture": capture,
        "is_tuned_on": tuned,
        "budget_pages": 12,
        "predictor": predictor,
        "selection_recall_frac": values["recall"],
        "moved_vs_lru_frac": 1.25,
        "misses_avoided_frac": 0.5,
        "stall_s@cpu-x": values["stall"] * 1e-3,
        "select_s@cpu-x": values["select"] * 1e-3,
        "step_s@cpu-x": values["step"] * 1e-3,
        "is_speculation_assumed@cpu-x": False,
    }


def _records(recall: float, stall: float) -> list[dict[str, Any]]:
    ours = _record("corrected", recall=recall, stall=stall, select=24.0, step=90.0)
    oracle = _record("oracle-prefetch", recall=1.0, stall=0.0, step=72.0)
    return [_record("lru", recall=float("nan"), stall=33.0, step=100.0), _record("previous-step"), ours, oracle]


@pytest.mark.parametrize(
    ("recall", "stall", "said"),
    [(0.82, 4.0, "reached throughout."), (0.82, 4.1, "missed."), (0.79, 1.0, "missed.")],
)
def test_the_target_takes_ten_points_of_recall_and_half_the_stall(recall: float, stall: float, said: str) -> None:
    (line,) = [line for line in predictors_verdict(_records(recall, stall)) if line.startswith("Target")]
    assert line.endswith(said)


def test_a_target_reached_at_one_budget_only_is_reached_in_part() -> None:
    other = [record | {"budget_pages": 20} for record in _records(0.75, 1.0)]
    assert any(line.endswith("reached in part.") for line in predictors_verdict(_records(0.85, 1.0) + other))


def test_a_step_that_lasts_longer_for_all_the_stall_it_saves_is_told() -> None:
    told = "\n".join(predictors_verdict(_records(0.82, 4.0)))
    assert "stalls 0.50 times as long as previous-step (-4.000 ms); scoring takes +14.000 ms" in told
    assert "its whole step takes 1.125 times as long. The quickest step is that of previous-step" in told


def test_the_text_that_was_tuned_on_counts_only_where_there_is_no_other() -> None:
    tuned = [_record("previous-step", capture="tuned", tuned=True, recall=0.9)]
    assert predictors_frame([*tuned, _record("previous-step")])["selection_recall_frac"].tolist() == [0.7]
    assert predictors_frame(tuned)["selection_recall_frac"].tolist() == [0.9]
