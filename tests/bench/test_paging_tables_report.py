"""A prefetching experiment tells what a result says: beside the right baseline, slower as slower, in known names."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from paging_tables_parts.modes import Experiment, experiment_of, experiment_summary, outcomes, pooled
from paging_tables_parts.tables import experiment_figure, experiment_text

from kvsim.errors import ResultError
from kvsim.report.results import RunResult
from kvsim.report.style import png

CONTEXTS, BUDGETS = (32_768, 65_536), (0.25, 0.5)
NAMES = {"resident": "baseline", "lru": "reactive", "attention": "predictive"}
TPOT_S = {"baseline": 0.010, "reactive": 0.015, "predictive": 0.008}
TOKENS = 64
"""Counted steps of the made-up rows."""

Make = Callable[..., RunResult]


@pytest.fixture(scope="module")
def make(make_run: Any) -> Make:
    def result(**options: Any) -> RunResult:
        summary, rows = make_run(CONTEXTS, BUDGETS, tuple(NAMES), **options)
        for cell in summary["cells"]:
            cell["policy"] = NAMES[cell["policy"]]
            tpot_s = TPOT_S[cell["policy"]] * (1 if cell["trace.extrapolate.context_tokens"] == CONTEXTS[0] else 3)
            cell["tpot_mean_s"] = 9.9  # runs speak where there are any
            cell["tpot_repeats_s"] = [tpot_s * 1.01, tpot_s, tpot_s * 0.99]
            cell["tokens_per_s"] = 1 / tpot_s
        return RunResult(summary=summary | {"is_measured": True}, rows=rows, manifest={})

    return result


@pytest.fixture(scope="module")
def experiment(make: Make) -> Experiment:
    return experiment_of(make())


def test_latency_is_the_median_run_of_all_counted_tokens(experiment: Experiment) -> None:
    cell = experiment.cell((0.25,), CONTEXTS[1], "reactive")
    assert cell["latency_s"] == pytest.approx(3 * 0.015 * TOKENS)
    assert cell["range_s"] == pytest.approx((3 * 0.015 * TOKENS * 0.99, 3 * 0.015 * TOKENS * 1.01))
    assert (experiment.num_runs, experiment.num_tokens) == (3, TOKENS)


def test_summary_has_the_names_of_a_prefetching_experiment_and_the_figures_of_the_cells(
    experiment: Experiment,
) -> None:
    found = experiment_summary(experiment)
    assert list(found)[:3] == ["experiment_summary", "mode_summaries", "comparative_analysis"]
    assert found["experiment_summary"]["total_experiments"] == found["experiment_summary"]["successful_experiments"]
    assert found["experiment_summary"]["total_experiments"] == 12
    reactive = found["mode_summaries"]["reactive"]
    assert reactive["average_latency_ms"] == pytest.approx(2 * 15 * TOKENS)
    assert reactive["average_tokens_per_second"] == pytest.approx((1 / 0.015 + 1 / 0.045) / 2)
    cells = experiment.of(mode="reactive")
    hits, misses = (sum(cell[name] for cell in cells) for name in ("hits", "misses"))
    assert reactive["average_cache_hit_rate"] == pytest.approx(hits / (hits + misses))
    assert found["mode_summaries"]["baseline"]["average_cache_hit_rate"] is None
    predictive = found["mode_summaries"]["predictive"]
    assert predictive["average_prediction_accuracy"] + predictive["misprediction_cost"] == pytest.approx(1)
    json.dumps(found, allow_nan=False)


def test_speedup_is_negative_where_a_mode_is_slower(experiment: Experiment) -> None:
    found = experiment_summary(experiment)
    analyses = [found, *found["settings"], *found["settings"][1]["by_context_tokens"].values()]
    for analysis in analyses:
        modes = analysis["comparative_analysis"]
        assert list(modes) == ["reactive", "predictive"]
        assert modes["reactive"]["latency_speedup_percent"] == pytest.approx(-50)
        assert modes["reactive"]["throughput_speedup_percent"] == pytest.approx(-100 / 3)
        assert modes["predictive"]["latency_speedup_percent"] == pytest.approx(20)
        assert modes["predictive"]["throughput_speedup_percent"] == pytest.approx(25)


def test_a_setting_pools_its_own_cells_only(experiment: Experiment) -> None:
    assert experiment.settings == [(0.25,), (0.5,)]
    found = experiment_summary(experiment)["settings"]
    for part, setting in zip(found, experiment.settings, strict=True):
        assert part["setting"] == {"budget.context_frac": setting[0]}
        expected: dict[str, Any] = pooled(experiment.of(setting, "reactive"))
        assert part["mode_summaries"]["reactive"]["average_cache_hit_rate"] == expected["hit_frac"]
    rates = [part["mode_summaries"]["reactive"]["average_cache_hit_rate"] for part in found]
    assert rates[0] < rates[1]


def test_the_baseline_that_attends_to_everything_is_told_from_that_of_equal_attention(make: Make) -> None:
    result = make()
    summary = copy.deepcopy(result.summary)
    for cell in summary["cells"]:
        if cell["policy"] == "baseline" and cell["budget.context_frac"] == 0.5:
            cell["selector"] = "full"
            cell["tpot_repeats_s"] = [2 * tpot_s for tpot_s in cell["tpot_repeats_s"]]
    found = experiment_of(RunResult(summary=summary, rows=result.rows, manifest={}))
    cell = found.cell((0.25,), CONTEXTS[0], "reactive")
    dense = found.dense(cell)
    assert dense is not None
    assert found.twin(cell)["latency_s"] == pytest.approx(0.010 * TOKENS)
    assert dense["latency_s"] == pytest.approx(0.020 * TOKENS)
    line = next(line for line in experiment_text(found).splitlines() if line.startswith("  reactive"))
    assert "-50.0" in line.split()
    assert "+25.0" in line.split()


def test_cells_within_the_spread_of_the_runs_are_called_neither(make: Make) -> None:
    result = make()
    summary = copy.deepcopy(result.summary)
    overlapping = next(cell for cell in summary["cells"] if cell["policy"] == "reactive")
    overlapping["tpot_repeats_s"] = [0.0100, 0.015, 0.015]
    found = outcomes(experiment_of(RunResult(summary=summary, rows=result.rows, manifest={})))
    assert {name: len(cells) for name, cells in found.items()} == {"faster": 4, "slower": 3, "neither": 1}


def test_the_text_has_every_table_and_says_what_came_of_it(experiment: Experiment) -> None:
    text = experiment_text(experiment)
    for words in ("Latency (ms)", "Speedup %", "Stall %", "Hit Rate %", "Mispred Cost", "reactive speedup %"):
        assert words in text
    for words in ("KV saved", "Cache Pages", "Prefetch Hit %", "context frac 0.25: 32,768, 65,536 tokens"):
        assert words in text
    assert "Of 8 paged cells, 4 are faster" in " ".join(text.split())
    saved = [line.split() for line in text.splitlines() if line.startswith("  reactive") and "N/A" not in line]
    assert any("75.0" in words for words in saved)  # a quarter of the KV cache on the device
    assert max(map(len, text.splitlines())) <= 120


def test_memory_is_that_of_the_longest_context(experiment: Experiment) -> None:
    text = experiment_text(experiment)
    longest = experiment.cell((0.25,), CONTEXTS[1], "baseline")
    assert f"{longest['kv_device_bytes'] / 1e6:.1f}" in text
    assert "context frac 0.25: 65,536 tokens" in text


def test_the_figure_draws_a_bar_for_every_cell_in_every_panel(experiment: Experiment) -> None:
    figure = experiment_figure(experiment)
    assert len(figure.axes) == 4
    for axis in figure.axes:
        assert sum(len(bars) for bars in axis.containers) == 12
        assert "%" in axis.get_ylabel() or "ms" in axis.get_ylabel()
    heights = [bar.get_height() for bars in figure.axes[1].containers for bar in bars]
    assert heights == pytest.approx([0.0] * 4 + [-50.0] * 4 + [20.0] * 4)
    assert png(figure).startswith(b"\x89PNG")


def test_a_result_without_one_baseline_is_refused(make: Make) -> None:
    result = make()
    paged = [cell for cell in result.summary["cells"] if cell["policy"] != "baseline"]
    with pytest.raises(ResultError, match="one policy that keeps everything, as `resident` does; found none"):
        experiment_of(RunResult(summary=result.summary | {"cells": paged}, rows=result.rows, manifest={}))


def test_one_trace_replayed_for_every_context_is_no_experiment(make: Make) -> None:
    result = make()
    cells = [cell | {"context_tokens": 4352} for cell in result.summary["cells"]]
    with pytest.raises(ResultError, match="one trace was replayed for every context; measure it"):
        experiment_of(RunResult(summary=result.summary | {"cells": cells}, rows=result.rows, manifest={}))


def test_no_more_pages_are_wasted_than_were_prefetched_and_not_used(make: Make) -> None:
    """What the warm-up fetched and the counted steps wasted was fetched too: it was counted as wasted alone."""
    result = make()
    for cell in result.summary["cells"]:
        if cell["policy"] == "predictive":
            cell |= {"prefetched": 114, "used": 70, "wasted": 109}  # 65 came in the warm-up
    lines = [line.split() for line in experiment_text(experiment_of(result)).splitlines() if "  predictive, " in line]
    assert {tuple(line[3:6]) for line in lines if len(line) == 9} == {("179", "70", "109")}
