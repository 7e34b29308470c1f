"""Tables and pictures of a sweep: the front by brute force, weights by theory, failures told, every picture drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.report.sweep_figures import (
    heat_figure,
    lines_figure,
    pareto_figure,
    sweep_figures,
    weights_figure,
)
from kvsim.experiments.decode.report.sweep_front import conditions_of, field_name, front_of, varied_fields
from kvsim.experiments.decode.report.sweep_tables import sweep_text, weights_of
from kvsim.experiments.decode.report.whatif_tables import reach_text, whatif_text
from kvsim.experiments.decode.sweep.reach import Reached
from kvsim.experiments.decode.sweep.whatif import Pair

FIELDS = {"budget.context_frac": [0.2, 0.5, 0.8], "page_tokens": [32, 64], "trace.path": ["a", "b"]}


def grid(time_ms: Callable[..., float], fields: dict[str, list[Any]] = FIELDS) -> dict[str, Any]:
    """Return a summary whose cells take `time_ms` of policy and fields, more memory with more budget."""
    cells = []
    for values in itertools.product(("lru", "stream"), *fields.values()):
        swept = dict(zip(fields, values[1:], strict=True))
        budget = swept.get("budget.context_frac", 0.5)
        cells.append(
            {"policy": values[0], **swept, "tpot_p50_s": 1e-3 * time_ms(*values), "stall_frac": 0.1, "hit_frac": 0.9}
            | {"device_bytes": int(2**30 * (1 + budget)), "fits": True, "budget_pages": 10}
            | {"mass_recall_frac": 1.0 if values[0] == "stream" else 0.8, "tokens_per_s": 1.0}
        )
    profile = {"name": "p", "kind": "measured", "emulated_link": True}
    return {"scenario": "demo", "profile": profile, "device_memory_bytes": 2 * 2**30, "swept": list(fields)} | {
        "cells": cells,
        "verdict": [],
    }


def beaten(cell: dict[str, Any], other: dict[str, Any]) -> bool:
    names = (("tpot_p50_s", 1), ("device_bytes", 1), ("mass_recall_frac", -1))
    no_worse = all(sign * other[name] <= sign * cell[name] for name, sign in names)
    return no_worse and any(other[name] != cell[name] for name, _ in names)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=30)
)
def test_the_front_is_what_no_cell_beats(points: list[tuple[int, int, int, bool]]) -> None:
    cells = [
        {"policy": "x", "tpot_p50_s": time / 8, "device_bytes": size, "mass_recall_frac": kept / 4, "fits": fits}
        for time, size, kept, fits in points
    ]
    front = front_of({"cells": cells, "swept": []})
    able = [cell for cell in cells if cell["fits"]] or cells
    best = [cell for cell in able if not any(beaten(cell, other) for other in able)]
    assert {tuple(cells[number].values()) for number in front} == {tuple(cell.values()) for cell in best}
    assert len(front) == len({tuple(cell.values()) for cell in best}), "equal cells stand once"


def test_cells_are_held_against_those_on_the_same_text_only() -> None:
    summary = grid(lambda policy, budget, page, text: 10 if text == "a" else 20)
    assert conditions_of(summary) == ["trace.path"]
    assert {summary["cells"][number]["trace.path"] for number in front_of(summary)} == {"a", "b"}


def test_weights_of_independent_effects_add_up_and_interactions_show_in_the_total_alone() -> None:
    """Of log time = f + g with equal spread of two fields each makes half, and their product neither alone."""
    added = weights_of(grid(lambda policy, budget, page, text: math.exp((policy == "lru") + (page == 32))))
    shares = added[added["figure"] == "tpot_p50_s"].set_index("field")
    assert shares["alone_frac"].to_dict() == pytest.approx(
        {"policy": 0.5, "page_tokens": 0.5, "budget.context_frac": 0, "trace.path": 0}
    )
    assert shares["total_frac"].to_dict() == pytest.approx(shares["alone_frac"].to_dict())
    signs = {"lru": 1, "stream": -1, 32: 1, 64: -1}
    joint = weights_of(grid(lambda policy, budget, page, text: math.exp(signs[policy] * signs[page])))
    shares = joint[joint["figure"] == "tpot_p50_s"].set_index("field")
    assert shares.loc[["policy", "page_tokens"], "alone_frac"].to_list() == pytest.approx([0, 0])
    assert shares.loc[["policy", "page_tokens"], "total_frac"].to_list() == pytest.approx([1, 1])


def test_a_figure_that_does_not_vary_has_no_weights() -> None:
    weights = weights_of(grid(lambda *values: 5.0))
    assert weights[weights["figure"] == "stall_frac"]["total_frac"].isna().all()


def time_ms(policy: str, budget: float, page: int, text: str) -> float:
    return (10 if policy == "lru" else 90) * (2 - budget) * (1 + page / 640)


def test_the_text_tells_front_weights_and_every_kind_of_failure_once() -> None:
    summary = grid(time_ms)
    swept = {"budget.context_frac": 0.01, "page_tokens": 32, "trace.path": "a"}
    summary["failed"] = [{"cell": n, "policy": "lru", **swept, "error": "too small"} for n in range(3)]
    text = sweep_text(summary)
    assert "24 of 24 cells fit 2 GiB" in text
    assert "3 of 27 cells failed:" in text
    assert "lru, budget.context_frac = 0.01, page_tokens = 32, trace.path = a and 2 more: too small" in text
    assert text.count("too small") == 1


def test_every_picture_is_drawn_with_units_on_its_axes() -> None:
    summary = grid(time_ms)
    assert set(sweep_figures(summary)) == {"pareto.png", "heat_map.png", "lines.png", "fields.png"}
    assert pareto_figure(summary).axes[0].get_xlabel() == "device memory, GiB"
    lines = lines_figure(summary)
    assert lines is not None
    assert lines.axes[0].get_xlabel() == "budget, share of all pages"
    assert lines.axes[0].get_ylabel() == "time per token (p50), ms"


def test_the_heat_map_holds_medians_of_the_two_fields_that_were_asked_for() -> None:
    figure = heat_figure(grid(time_ms), ("budget.context_frac", "policy"))
    assert figure is not None
    drawn = figure.axes[0].collections[0].get_array().reshape(2, 3)
    expected = [[(first * (2 - budget) * (1.05 + 1.1) / 2) for budget in (0.2, 0.5, 0.8)] for first in (10, 90)]
    assert drawn.tolist() == [pytest.approx(row) for row in expected]
    with pytest.raises(ScenarioError, match="'page_token' does not vary in this sweep; did you mean 'page_tokens'"):
        heat_figure(grid(time_ms), ("page_token", "policy"))


def test_a_sweep_of_one_cell_draws_what_there_is() -> None:
    summary = grid(lambda policy: 5.0, {})
    summary["cells"] = summary["cells"][:1]
    assert varied_fields(summary) == []
    assert set(sweep_figures(summary)) == {"pareto.png"}
    assert weights_figure(summary) is None
    assert "1 of 1 cells fit" in sweep_text(summary)


def test_fields_of_somebodys_own_are_named_by_their_last_part() -> None:
    assert field_name("trace.extrapolate.middle_growth") == "middle growth"


def test_a_what_if_shows_both_sides_and_what_is_hypothetical() -> None:
    summary = grid(time_ms)
    summary["verdict"] = ["The fastest is lru.", "Hypothetical: nobody measured p x2."]
    before, after = summary["cells"][0], summary["cells"][0] | {"tpot_p50_s": 0.009}
    text = whatif_text(
        ["profile.link_bandwidth=x2"],
        [Pair(policy="lru", swept={"page_tokens": 32}, before=before, after=after)],
        summary,
    )
    assert "0.476" in text
    assert text.endswith("Hypothetical: nobody measured p x2.")
    assert "The fastest" not in text


def test_what_reaches_a_figure_is_told_with_what_just_does_not() -> None:
    found = [
        Reached(policy="lru", tried=((8, 0.2), (16, 0.05), (64, 0.04)), reached=16, missed=8, low=8, high=64),
        Reached(policy="stream", tried=((8, None), (64, 0.3)), reached=None, missed=None, low=64, high=64),
    ]
    text = reach_text("tpot_p50_s", 0.05, "budget.pages_per_layer", (8, 64), found)
    assert "budget, pages a layer from 8 to 64" in text
    assert text.splitlines()[-4].split() == ["lru", "16", "50", "ms", "8", "200", "ms", "3"]
    assert "best 300 ms at 64" in text.splitlines()[-3]
    assert text.splitlines()[-1] == "stream can be simulated from 64 to 64 only."
