"""The picture of `kvsim trace info`: by layer, where the attention mass lies and how well it can be predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from kvsim.report.style import PALETTE, add_panels, new_figure
from kvsim.traces.access.statistics import RECALL_PAGES, RECENT_TOKENS, TOP_PAGES, TraceStatistics

Curves: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Shares by layer, by what they are of."""

_SHADES = ("#08306B", "#2171B5", "#6BAED6", "#BDD7E7")


def trace_figure(statistics: TraceStatistics, name: str) -> Figure:
    """Return four panels over the layers: shares of the mass, mass in the best pages, recall by step, recall by layer.

    Values are means over steps and sequences; the spread that matters, between layers, is the x axis. The dotted
    line is what pages drawn by lot would reach on the middle.
    """
    figure = new_figure(
        8.4,
        f"How sparse and how predictable: {name}",
        f"{statistics.num_steps} steps, {statistics.num_pages} pages of {statistics.page_tokens} tokens, "
        f"{statistics.middle_pages} in the middle (neither the first page nor the last {RECENT_TOKENS} tokens).",
    )
    (shares, best), (steps, layers) = add_panels(figure, 2, 2)
    _draw_shares(shares, statistics)
    _draw_best(best, statistics)
    title = f"A step's best {RECALL_PAGES} pages among those of the step before"
    _draw_recalls(steps, title, step_recalls(statistics), statistics)
    title = f"A layer's best {RECALL_PAGES} pages among those of ..."
    _draw_recalls(layers, title, layer_recalls(statistics), statistics)
    return figure


def shares_of(statistics: TraceStatistics) -> Curves:
    """Return where the mass lies, by layer."""
    return {
        "first page": statistics.sink_frac,
        "middle": statistics.middle_frac,
        f"last {RECENT_TOKENS} tokens": statistics.recent_frac,
    }


def best_pages(statistics: TraceStatistics) -> Curves:
    """Return the mass in the best pages, by layer."""
    rows = zip(TOP_PAGES, statistics.top_share_frac, strict=True)
    return {f"best {k}" if k > 1 else "best page": row for k, row in rows}


def step_recalls(statistics: TraceStatistics) -> Curves:
    """Return which share of a step's best pages an earlier step predicts, by layer."""
    return {
        "all pages": statistics.step_recall_frac,
        "middle": statistics.middle_step_recall_frac,
        "middle, set of the first 8 steps": statistics.middle_first_recall_frac,
    }


def layer_recalls(statistics: TraceStatistics) -> Curves:
    """Return which share of a layer's best pages another layer or an estimate predicts, by layer."""
    return {
        "layer before, all pages": statistics.layer_recall_frac,
        "layer before, middle": statistics.middle_layer_recall_frac,
        **{f"{channel}, middle": row for channel, row in statistics.middle_channel_recall_frac.items()},
    }


def _draw_shares(axis: Any, statistics: TraceStatistics) -> None:
    bottom = np.zeros(statistics.num_layers)
    for (label, share), color in zip(shares_of(statistics).items(), PALETTE[1::-1] + PALETTE[2:3], strict=True):
        axis.bar(range(statistics.num_layers), 100 * share, 0.85, 100 * bottom, label=label, color=color)
        bottom = bottom + share
    _finish(axis, "Where the attention mass lies", "mass, %")


def _draw_best(axis: Any, statistics: TraceStatistics) -> None:
    for (label, row), color in zip(best_pages(statistics).items(), _SHADES, strict=True):
        axis.plot(100 * row, marker="o", markersize=3.5, color=color, label=label)
    _finish(axis, "Mass in the best pages", "mass, %")


def _draw_recalls(axis: Any, title: str, recalls: Curves, statistics: TraceStatistics) -> None:
    for number, (label, row) in enumerate(recalls.items()):
        if np.isfinite(row).any():
            axis.plot(100 * row, marker="os^Dv"[number % 5], markersize=4, color=PALETTE[number], label=label)
    if np.isfinite(statistics.chance_recall_frac):
        axis.axhline(
            100 * statistics.chance_recall_frac, color="black", linestyle=":", linewidth=1.2, label="by chance"
        )
    _finish(axis, title, "found, %")


def _finish(axis: Any, title: str, ordinate: str) -> None:
    labels = axis.get_legend_handles_labels()[1]
    num_columns = len(labels) if sum(map(len, labels)) < 60 else 3
    axis.set_title(title, loc="left", fontsize=10.5, pad=8 + 14 * math.ceil(len(labels) / num_columns))
    axis.set_ylim(0, 102)
    axis.set_xlabel("layer")
    axis.set_ylabel(ordinate)
    axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axis.legend(
        fontsize=8.5,
        loc="lower left",
        bbox_to_anchor=(-0.015, 0.985),
        ncols=num_columns,
        columnspacing=1.0,
        handlelength=1.3,
        handletextpad=0.4,
        frameon=False,
    )
