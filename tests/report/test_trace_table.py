"""The text of a trace: where it is from, its means and layers in the columns that the legend explains."""

from __future__ import annotations

import pytest

from kvsim.report.trace_table import statistics_text, trace_text
from kvsim.scenario.shipped import find_capture
from kvsim.traces.access.file import TraceFile, open_trace
from kvsim.traces.access.statistics import TraceStatistics, measure_statistics


@pytest.fixture(scope="module")
def trace() -> TraceFile:
    return open_trace(find_capture("smollm2-docs"))


@pytest.fixture(scope="module")
def statistics(trace: TraceFile) -> TraceStatistics:
    return measure_statistics(trace, 64, num_steps=40)


def cells(text: str, first: str) -> list[str]:
    (row,) = [line.split() for line in text.splitlines() if line.split()[:1] == [first]]
    return row


def test_the_origin_is_told_first(trace: TraceFile, statistics: TraceStatistics) -> None:
    lines = trace_text(statistics, trace.header).splitlines()
    assert trace.header.model in lines[0]
    assert "4,096 tokens of prompt" in lines[0]
    assert "estimate:quest@64" in lines[1]
    assert trace.header.recipe in lines[2]


def test_every_layer_has_a_line_with_its_own_figures(trace: TraceFile, statistics: TraceStatistics) -> None:
    text = trace_text(statistics, trace.header)
    by_layer = statistics.by_layer()
    for layer in range(trace.num_layers):
        row = cells(text, str(layer))
        assert row[5] == f"{100 * statistics.sink_frac[layer]:.0f}"
        assert row[13] == f"{by_layer['pages_for_90_percent'][layer]:.0f}"
        assert row[4] == f"{100 * by_layer['top_16_share_frac'][layer]:.0f}"
    assert cells(text, "0")[9] == "-"  # no layer before it
    assert cells(text, "all")[5] == f"{100 * statistics.averages()['sink_frac']:.0f}"


def test_channels_of_this_page_size_are_told_and_others_are_not(trace: TraceFile, statistics: TraceStatistics) -> None:
    text = trace_text(statistics, trace.header)
    seen = statistics.averages()["channel_recall:estimate:quest_frac"]
    assert cells(text, "estimate:quest")[1] == f"{100 * seen:.0f}"
    assert "no score channel" in trace_text(measure_statistics(trace, 128, num_steps=4), trace.header)


def test_a_fit_is_shown_beside_what_it_was_fitted_to(trace: TraceFile, statistics: TraceStatistics) -> None:
    other = measure_statistics(trace, 64, num_steps=3)
    row = cells(statistics_text(statistics, other), "sink,")
    means = [100 * found.averages()["sink_frac"] for found in (statistics, other)]
    assert row[2:] == [f"{mean:.0f}" for mean in means]
