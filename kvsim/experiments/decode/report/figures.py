"""The pictures of a run that a person looks at first: latency over the context, where a step's time goes, hit rate.

Rows and summary in, figures out. Importing this loads matplotlib; nothing here opens a window or picks a path.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from kvsim.experiments.decode.entry import Entry, value_of
from kvsim.report.results import RunResult
from kvsim.report.style import PALETTE, add_panels, legend_above, log_ticks, new_figure, png, policy_looks, title_panel
from kvsim.report.tables import KIND_WORDS
from kvsim.types import Rows

Summary = Mapping[str, Any]
_Cells = Sequence[tuple[int, Entry]]
"""Cells with their numbers, by which rows name them."""

WINDOW_STEPS = 9
"""Steps over which a latency and its spread are taken."""
_MAX_POINTS = 200
_MAX_PANELS = (3, 4)
_LOG_FROM = 20.0
_TICK_EDGE_FRAC = 0.12
"""Of a panel's width, without ticks at either side: about half a label."""

PARTS = {
    "attention input": (("attention_input_s",), "#7FB2D9", ""),
    "page selection": (("select_s",), "#5B2A6E", ""),
    "attention": (("attention_s",), PALETTE[0], ""),
    "output and MLP": (("attention_output_s",), "#C4DCEE", ""),
    "embedding and head": (("embed_s", "head_s"), "#BBBBBB", ""),
    "waiting for host": (("host_s",), "#ECE133", ".."),
    "stall (pages)": (("stall_s",), PALETTE[7], "//"),
}
"""Parts of a step on the compute stream's clock: columns, colour, hatch."""


def figures_of(result: RunResult) -> dict[str, bytes]:
    """Return the pictures of a run as PNG files by name; without a policy that has a budget, no hit rate."""
    figures = {
        "latency.png": latency_figure(result.summary, result.rows),
        "step_parts.png": parts_figure(result.summary, result.rows),
        "hit_rate.png": hit_figure(result.summary, result.rows),
    }
    return {name: png(figure) for name, figure in figures.items() if figure is not None}


def latency_figure(summary: Summary, rows: Rows) -> Figure:
    """Return the time per output token over the context: a line a policy, a panel for each swept combination.

    Line and band are the median and the 10th to 90th percentile of 9 steps of all repetitions. A policy many times
    slower than most is written at the upper edge, so that the others stay distinct.
    """
    panels = _grid(summary)
    figure = new_figure(
        1.2 + 2.5 * len(panels),
        "Time per output token over the context",
        f"Line: median of {WINDOW_STEPS} steps, band: 10th to 90th percentile. {costs_text(summary)}",
    )
    axes = add_panels(figure, len(panels), len(panels[0]), sharey=True)
    looks = policy_looks(cell["policy"] for cell in summary["cells"])
    curves = {number: latency_ms(rows, number) for row in panels for _, cells in row for number, _ in cells}
    limit_ms = _cut_at([float(high_ms.max()) for _, _, _, high_ms in curves.values()])
    handles: dict[str, Any] = {}
    for axis, (title, cells) in _pairs(axes, panels):
        title_panel(axis, title)
        num_above = 0
        for number, cell in cells:
            tokens, middle_ms, low_ms, high_ms = curves[number]
            look = looks[cell["policy"]] | {"marker": ""}
            color = look["color"]
            (line,) = axis.plot(tokens, middle_ms, **look)
            axis.fill_between(tokens, low_ms, high_ms, color=color, alpha=0.2, linewidth=0)
            handles.setdefault(cell["policy"], line)
            if middle_ms.min() > limit_ms:
                above = f"\N{UPWARDS ARROW} {cell['policy']} {_three_digits(float(np.median(middle_ms)))} ms"
                place = (0.98, 0.97 - 0.11 * num_above)
                axis.text(*place, above, color=color, ha="right", va="top", transform=axis.transAxes)
                num_above += 1
        axis.set_xticks(_inner_ticks(*axis.get_xlim()))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _scale_latency(axes[0][0], min(float(curve[2].min()) for curve in curves.values()), limit_ms)
    _label_axes(axes, "context, tokens", "ms a token")
    legend_above(figure, handles)
    return figure


def parts_figure(summary: Summary, rows: Rows) -> Figure:
    """Return where the time of a step goes: a stacked bar a policy, a panel for each swept combination.

    A bar far longer than the rest is cut, with its length written at the cut.
    """
    panels = _grid(summary)
    num_policies = max(len(cells) for row in panels for _, cells in row)
    figure = new_figure(
        1.1 + len(panels) * (0.8 + 0.34 * num_policies),
        "Where the time of a step goes",
        f"Bar: mean over the counted steps, whisker: 5th to 95th percentile of the step. {costs_text(summary)}",
    )
    axes = add_panels(figure, len(panels), len(panels[0]), sharex=True)
    totals_ms = [
        1e3 * float(rows["step_s"][counted_rows(rows, number)].mean()) for number in range(len(summary["cells"]))
    ]
    limit_ms = _cut_at(totals_ms)
    for axis, (title, cells) in _pairs(axes, panels):
        title_panel(axis, title, [cell["policy"] for _, cell in cells])
        axis.set_xlim(0, limit_ms * 1.2)
        axis.grid(False, axis="y")
        axis.set_yticks(range(len(cells)), [cell["policy"] for _, cell in cells])
        axis.invert_yaxis()
        for place, (number, _) in enumerate(cells):
            _stacked_bar(axis, place, rows, number, limit_ms)
    for row in axes:
        for axis in row[1:]:
            axis.tick_params(labelleft=False)
    _label_axes(axes, "ms a step", "")
    legend_above(
        figure,
        {name: Patch(facecolor=color, hatch=hatch, edgecolor="white") for name, (_, color, hatch) in PARTS.items()},
    )
    return figure


def hit_figure(summary: Summary, rows: Rows) -> Figure | None:
    """Return the hit rate against the budget, a line a policy, or None where no policy has a budget.

    The whisker is the 10th to 90th percentile of the steps' own rates.
    """
    with_budget = [
        (number, cell)
        for number, cell in enumerate(summary["cells"])
        if cell["budget_pages"] is not None and cell["hit_frac"] is not None
    ]
    if not with_budget:
        return None
    keys = [key for key in summary.get("swept", ()) if not key.startswith("budget.")]
    panels = _grid(summary, keys=keys, cells=with_budget)
    figure = new_figure(
        1.2 + 2.9 * len(panels),
        "Hit rate against the budget",
        f"Point: over all counted steps, whisker: 10th to 90th percentile of the steps. {costs_text(summary)}",
    )
    axes = add_panels(figure, len(panels), len(panels[0]), sharey=True)
    looks = policy_looks(cell["policy"] for cell in summary["cells"])
    handles: dict[str, Any] = {}
    lowest = 100.0
    for axis, (title, cells) in _pairs(axes, panels):
        title_panel(axis, title)
        for policy in dict.fromkeys(cell["policy"] for _, cell in cells):
            points = sorted(hit_point(rows, number, cell) for number, cell in cells if cell["policy"] == policy)
            x, y, low, high = np.array(points).T
            handles.setdefault(
                policy,
                axis.errorbar(x, y, yerr=(np.maximum(y - low, 0), np.maximum(high - y, 0)), capsize=3, **looks[policy]),
            )
            lowest = min(lowest, float(low.min()))
        axis.margins(x=0.1)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    bottom = max(start for start in (0.0, 50.0, 80.0, 90.0) if start <= lowest)
    axes[0][0].set_ylim(bottom, 100 + 0.04 * (100 - bottom))
    _label_axes(axes, "budget, % of all pages", "selected pages on\nthe device, %")
    legend_above(figure, handles)
    return figure


def costs_text(summary: Summary) -> str:
    """Say whose costs these are: nobody should take a published figure or an emulated link for a measurement."""
    profile = summary["profile"]
    label = KIND_WORDS.get(profile["kind"], profile["kind"])
    link = ", emulated link" if profile["emulated_link"] else ""
    return f"{summary['scenario']}; simulated with {profile['name']} ({label}{link})."


def _grid(
    summary: Summary, *, keys: Sequence[str] | None = None, cells: _Cells | None = None
) -> list[list[tuple[str, _Cells]]]:
    """Return a title and the cells of each panel: a column for each context (or first swept field), a row for the rest.

    Of more than 3 rows or 4 columns, as many are shown, spread evenly, the first and the last among them.
    """
    swept = list(summary.get("swept", ()) if keys is None else keys)
    numbered: _Cells = list(enumerate(summary["cells"])) if cells is None else list(cells)
    across = next((key for key in swept if key.endswith("context_tokens")), swept[0] if swept else None)
    down = [key for key in swept if key != across]
    columns = some_of(
        list(dict.fromkeys(value_of(cell, across) for _, cell in numbered)) if across else [None], _MAX_PANELS[1]
    )
    row_values = some_of(
        list(dict.fromkeys(tuple(value_of(cell, key) for key in down) for _, cell in numbered)), _MAX_PANELS[0]
    )
    panels = []
    for values in row_values:
        row: list[tuple[str, _Cells]] = []
        for column in columns:
            values_of = dict(zip(down, values, strict=True)) | ({across: column} if across else {})
            chosen = [
                (n, cell)
                for n, cell in numbered
                if all(value_of(cell, key) == value for key, value in values_of.items())
            ]
            row.append((_panel_title(values_of), chosen))
        panels.append(row)
    return panels


def some_of(values: list[Any], most: int) -> list[Any]:
    """Return `most` of the values at most, spread evenly, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, most)]


def _panel_title(values_of: Mapping[str, Any]) -> str:
    return ", ".join(reversed([_named(key, value) for key, value in values_of.items()]))


def _named(key: str, value: Any) -> str:
    name = key.rsplit(".", 1)[-1]
    if name == "context_tokens":
        return f"{value:,} tokens of context"
    if name == "context_frac":
        return f"budget {100 * value:g}%"
    number = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{name.replace('_', ' ')} {number}"


def _inner_ticks(low: float, high: float) -> list[float]:
    """Return two round numbers or more that lie well within a panel, so that no label runs into the next panel's.

    Examples
    --------
    >>> all(65_544 < tick < 65_575 for tick in _inner_ticks(65_544, 65_575))
    True
    """
    edge = _TICK_EDGE_FRAC * (high - low)
    for num_steps in range(3, 8):
        ticks = [float(tick) for tick in MaxNLocator(num_steps, integer=True).tick_values(low, high)]
        inner = [tick for tick in ticks if low + edge <= tick <= high - edge]
        if len(inner) > 1:
            return inner
    return inner


def _pairs(axes: list[list[Any]], panels: list[list[tuple[str, _Cells]]]) -> list[tuple[Any, tuple[str, _Cells]]]:
    return [pair for axis_row, row in zip(axes, panels, strict=True) for pair in zip(axis_row, row, strict=True)]


def _label_axes(axes: list[list[Any]], below: str, left: str) -> None:
    for axis in axes[-1]:
        axis.set_xlabel(below)
    for row in axes:
        row[0].set_ylabel(left)


def counted_rows(rows: Rows, number: int) -> NDArray[np.bool_]:
    """Return which rows are steps of a cell that count."""
    counted: NDArray[np.bool_] = (rows["cell"] == number) & ~rows["is_warmup"].astype(bool)
    return counted


def latency_ms(rows: Rows, number: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the context of a cell's steps, and median, 10th and 90th percentile of the time per token around each."""
    counted = counted_rows(rows, number)
    steps, tokens, step_ms = rows["step"][counted], rows["context_tokens"][counted], rows["step_s"][counted] * 1e3
    order = np.argsort(steps, kind="stable")
    steps, tokens, step_ms = steps[order], tokens[order], step_ms[order]
    distinct = np.unique(steps)
    shown = distinct[np.unique(np.linspace(0, distinct.size - 1, min(distinct.size, _MAX_POINTS)).round().astype(int))]
    half = WINDOW_STEPS // 2
    first, last = np.searchsorted(steps, shown - half), np.searchsorted(steps, shown + half, side="right")
    spread = [np.percentile(step_ms[a:b], (50, 10, 90)) for a, b in zip(first, last, strict=True)]
    middle, low, high = np.array(spread).T
    return tokens[np.searchsorted(steps, shown)], middle, low, high


def _scale_latency(axis: Any, lowest_ms: float, limit_ms: float) -> None:
    """Use a logarithmic scale where what is shown lies far apart: on a linear one the fast ones are one line."""
    if limit_ms <= _LOG_FROM * lowest_ms:
        axis.set_ylim(0, limit_ms)
        return
    axis.set_yscale("log")
    axis.set_ylim(lowest_ms / 1.3, limit_ms)
    log_ticks(axis.yaxis)


def _cut_at(longest_ms: list[float]) -> float:
    """Return where an axis from 0 may end: past the longest, or past most of them where a gap of a factor 3 follows."""
    ordered = sorted(longest_ms)
    for number, (shorter, longer) in enumerate(itertools.pairwise(ordered), start=1):
        if 2 * number >= len(ordered) and longer > 3 * shorter:
            return shorter * 1.35
    return ordered[-1] * 1.15


def part_ms(rows: Rows, number: int, columns: Sequence[str]) -> float:
    """Return the mean time of a part of a cell's steps."""
    counted = counted_rows(rows, number)
    return 1e3 * float(sum(rows[name][counted].mean() for name in columns))


def _stacked_bar(axis: Any, place: int, rows: Rows, number: int, limit_ms: float) -> None:
    left_ms = 0.0
    for columns, color, hatch in PARTS.values():
        long_ms = part_ms(rows, number, columns)
        width_ms = min(long_ms, max(limit_ms - left_ms, 0.0))
        if width_ms > 0:
            axis.barh(
                place, width_ms, left=left_ms, height=0.72, color=color, hatch=hatch, edgecolor="white", linewidth=0
            )
        left_ms += long_ms
    low_ms, high_ms = np.percentile(rows["step_s"][counted_rows(rows, number)] * 1e3, (5, 95))
    end_ms = min(left_ms, limit_ms)
    if left_ms <= limit_ms:
        axis.plot((low_ms, high_ms), (place, place), color="black", linewidth=1.2)
        end_ms = max(left_ms, min(high_ms, limit_ms))
    arrow = "" if left_ms <= limit_ms else "\N{RIGHTWARDS ARROW} "
    axis.text(end_ms + 0.01 * limit_ms, place, f" {arrow}{_three_digits(left_ms)}", va="center", fontsize=10)


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def hit_point(rows: Rows, number: int, cell: Entry) -> tuple[float, float, float, float]:
    """Return the budget, the hit rate, and the 10th and 90th percentile of the steps' own rates, all in percent."""
    counted = counted_rows(rows, number)
    hits = rows["hits"][counted].astype(float)
    selected = hits + rows["misses"][counted]
    rates = hits[selected > 0] / selected[selected > 0]
    low, high = np.percentile(rates, (10, 90))
    assert cell["hit_frac"] is not None  # it has a budget
    share = cell["kv_device_bytes"] / max(cell["host_bytes"], cell["kv_device_bytes"])
    return 100 * share, 100 * cell["hit_frac"], 100 * float(low), 100 * float(high)
