"""The picture of a trace: shares, sparsity and recall by layer, as the statistics have them."""

from __future__ import annotations

import numpy as np
import pytest

from kvsim.report.style import png
from kvsim.report.trace_figures import trace_figure
from kvsim.traces.access.statistics import measure_statistics

LAYERS = 6


class Source:
    """A made-up trace: random masses, and an estimate that is half the mass and half noise."""

    num_steps, num_layers, num_sequences, channels = 12, LAYERS, 1, ("mass", "estimate:quest")

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def context_tokens(self, step):
        return np.array([self.tokens + step])

    def scores(self, step, layer, channel, page_tokens):
        pages = -(-(self.tokens + step) // page_tokens)
        fixed = np.random.default_rng(layer).pareto(1.5, pages + 8)[:pages]
        moving = np.random.default_rng((step, layer, channel == "mass")).pareto(1.5, pages)
        return (fixed + moving)[None, :] / (fixed + moving).sum()

    def mass(self, step, layer, page_tokens):
        return self.scores(step, layer, "mass", page_tokens)

    def selection(self, step, layer, page_tokens):
        return None


@pytest.fixture(scope="module")
def statistics():
    return measure_statistics(Source(2000), 32)


def test_it_draws_what_the_statistics_say_by_layer(statistics):
    shares, best, steps, layers = trace_figure(statistics, "docs").axes
    heights = [bar.get_height() for bar in shares.patches]
    expected = np.concatenate([statistics.sink_frac, statistics.middle_frac, statistics.recent_frac])
    assert heights == [pytest.approx(value) for value in 100 * expected]
    assert best.lines[2].get_label() == "best 8"
    assert list(best.lines[2].get_ydata()) == [pytest.approx(value) for value in 100 * statistics.top_share_frac[2]]
    assert steps.lines[1].get_ydata() == pytest.approx(100 * statistics.middle_step_recall_frac)
    assert layers.lines[1].get_ydata() == pytest.approx(100 * statistics.middle_layer_recall_frac, nan_ok=True)
    assert layers.lines[2].get_label() == "estimate:quest, middle"


def test_chance_is_drawn_as_a_line_to_beat(statistics):
    _, _, steps, _ = trace_figure(statistics, "docs").axes
    assert steps.lines[-1].get_label() == "by chance"
    assert steps.lines[-1].get_ydata()[0] == pytest.approx(100 * 8 / statistics.middle_pages)


def test_every_panel_is_labelled_and_the_foot_says_what_was_looked_at(statistics):
    figure = trace_figure(statistics, "docs")
    assert {axis.get_xlabel() for axis in figure.axes} == {"layer"}
    assert all(axis.get_ylabel().endswith("%") for axis in figure.axes)
    words = " ".join(text.get_text() for text in figure.texts)
    assert "docs" in words
    assert "12 steps, 63 pages of 32 tokens" in words


def test_a_trace_too_short_for_a_middle_still_has_a_picture():
    figure = trace_figure(measure_statistics(Source(200), 32), "short")
    assert "middle" not in [line.get_label() for line in figure.axes[2].lines]
    assert png(figure).startswith(b"\x89PNG")
