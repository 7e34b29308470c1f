"""Which value reaches a figure: between the values that can be simulated, and printed so that it can be copied."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kvsim.cli import run_command
from kvsim.errors import ScenarioError
from kvsim.experiments.decode.report.whatif_tables import reach_text
from kvsim.experiments.decode.sweep.reach import is_whole, reach
from kvsim.report.results import RunResult, write_result
from tests.experiments.decode.small import SMALL, made, times

BUDGET_BYTES = "budget.bytes"


def test_the_smallest_budget_that_reaches_a_time_reaches_it_and_one_page_less_does_not(result: RunResult) -> None:
    worst_s, best_s = (
        times(made(*SMALL[:2], "run.policies=lru", f"budget.pages_per_layer={pages}"))[0] for pages in (14, 60)
    )
    wanted_s = (worst_s + best_s) / 2
    (found,) = reach(result, "tpot_p50_s", wanted_s, "budget.pages_per_layer", 14, 120, changes=["run.policies=lru"])
    assert found.reached is not None and found.missed == found.reached - 1
    for pages, is_reached in ((found.reached, True), (found.missed, False)):
        alone = made(*SMALL[:2], "run.policies=lru", f"budget.pages_per_layer={pages:.0f}")
        assert (times(alone)[0] <= wanted_s) is is_reached


def test_a_time_that_no_value_reaches_is_said_to_be_out_of_reach(result: RunResult) -> None:
    found = reach(result, "tpot_p50_s", 1e-6, "profile.link_bandwidth", 1, 8, changes=["budget.pages_per_layer=20"])
    assert [(one.policy, one.reached, len(one.tried)) for one in found] == [("lru", None, 2), ("stream", None, 2)]


def test_a_budget_that_cannot_be_simulated_does_not_reach_anything(result: RunResult) -> None:
    (found,) = reach(result, "tpot_p50_s", 10.0, "budget.pages_per_layer", 2, 60, changes=["run.policies=lru"])
    assert found.reached is not None and found.missed == found.reached - 1
    assert dict(found.tried)[found.missed] is None


def test_a_bound_that_cannot_be_simulated_does_not_end_the_search(result: RunResult) -> None:
    """The figure grows with the budget; the lower bound is below the least budget that works."""
    options = ["run.policies=lru"]
    key, limits = "budget.context_frac", (0.001, 1.0)
    (full,) = reach(result, "device_bytes", 1e12, key, *limits, changes=options)
    least, most = (dict(full.tried)[value] for value in (full.reached, 1.0))
    assert least is not None and most is not None
    (found,) = reach(result, "device_bytes", (least + most) / 2, key, *limits, changes=options)
    (alone,) = reach(result, "device_bytes", (least + most) / 2, key, 0.2, 1.0, changes=options)
    assert found.reached is not None and alone.reached is not None
    assert found.reached == pytest.approx(alone.reached, rel=0.01)
    assert found.low is not None and 0.001 < found.low < found.reached < 1.0 == found.high
    assert dict(found.tried)[0.001] is None
    text = reach_text("device_bytes", 1e12, key, limits, [found])
    assert text.splitlines()[-1] == f"lru can be simulated from {found.low!r} to 1.0 only."


def test_where_nothing_can_be_simulated_that_is_what_is_reported(result: RunResult) -> None:
    (found,) = reach(result, "tpot_p50_s", 1.0, "budget.pages_per_layer", 1, 3, changes=["run.policies=lru"])
    assert (found.reached, found.low, found.high) == (None, None, None)
    assert "cannot be simulated" in reach_text("tpot_p50_s", 1.0, "budget.pages_per_layer", (1, 3), [found])


@pytest.mark.parametrize("low", [1_000_000, 3_000_000])
def test_whole_numbers_from_a_million_on_are_whole(result: RunResult, low: int) -> None:
    bytes_needed = reach(result, "tpot_p50_s", 10.0, BUDGET_BYTES, low, 123_456_789, changes=["run.policies=lru"])
    (found,) = bytes_needed
    assert found.reached is not None and float(found.reached).is_integer()
    assert found.missed in (found.reached - 1, None)
    text = reach_text("tpot_p50_s", 10.0, BUDGET_BYTES, (low, 123_456_789), bytes_needed)
    assert f"from {low} to 123456789." in text
    assert re.search(rf"^lru +{round(found.reached)} ", text, flags=re.MULTILINE)


def test_whether_a_field_is_whole_is_a_matter_of_its_type() -> None:
    assert is_whole("budget.bytes") and is_whole("trace.extrapolate.context_tokens") and is_whole("page_tokens")
    assert not is_whole("budget.context_frac") and not is_whole("profile.link_bandwidth")


@pytest.mark.parametrize(
    ("most", "low", "high", "problem"),
    [
        (float("nan"), 20, 40, "at most nan: should be a finite number"),
        (float("inf"), 20, 40, "at most inf: should be a finite number"),
        (1.0, float("nan"), 40, "should be LOW:HIGH with 0 < LOW < HIGH, found nan:40"),
        (1.0, 20, float("inf"), "should be LOW:HIGH with 0 < LOW < HIGH, found 20:inf"),
        (1.0, 40, 20, "should be LOW:HIGH with 0 < LOW < HIGH, found 40:20"),
        (1.0, 20.5, 40, "bounds of budget.pages_per_layer should be whole numbers, found 20.5:40"),
    ],
)
def test_bounds_and_figures_that_are_no_numbers_are_refused(
    result: RunResult, most: float, low: float, high: float, problem: str
) -> None:
    with pytest.raises(ScenarioError, match=re.escape(problem)):
        reach(result, "tpot_p50_s", most, "budget.pages_per_layer", low, high)


def test_what_is_printed_can_be_copied_into_set(
    result: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_result(result, tmp_path)
    asked = ["--reach", "device_bytes<=340000000", "--over", f"{BUDGET_BYTES}=20000000:99000001"]
    assert run_command(["whatif", str(folder), *asked, "--set", "run.policies=lru", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["found"]
    assert run_command(["whatif", str(folder), *asked, "--set", "run.policies=lru"]) == 0
    words = capsys.readouterr().out.splitlines()[-1].split()
    assert words[0] == "lru" and int(words[1]) == found["reached"]
    (cell,) = made(*SMALL[:2], "run.policies=lru", f"{BUDGET_BYTES}={words[1]}").summary["cells"]
    assert cell["device_bytes"] <= 340_000_000


def test_what_is_left_to_vary_is_named(result: RunResult) -> None:
    with pytest.raises(ScenarioError, match=r"budget.pages_per_layer vary"):
        reach(result, "tpot_p50_s", 0.1, "profile.link_bandwidth", 1, 8)
