"""What decode adds to the page of a result: latency, parts of a step, hit rates, and the steps of each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kvsim.experiments.decode.entry import Entry
from kvsim.experiments.decode.report.figures import PARTS, counted_rows, hit_point, latency_ms, part_ms
from kvsim.experiments.decode.report.sweep_front import front_of
from kvsim.experiments.decode.report.table import LEGEND, shown_columns, swept_keys
from kvsim.report.html.cell_charts import MAX_VIEWS, value_name
from kvsim.report.html.charts import (
    Chart,
    Look,
    Trace,
    View,
    axis,
    bars_height,
    bars_layout,
    columns_of_bars,
    dots,
    line,
    looks_of,
    rows_of_bars,
    value_axis,
)
from kvsim.report.html.parts import Parts, charts_of
from kvsim.report.results import RunResult
from kvsim.types import Rows
from kvsim.units import format_bytes, format_seconds

_Cells = Sequence[tuple[int, Entry]]
_MAX_STEPS = 48
"""Steps of a cell that are drawn one by one."""
_MAX_BARS = 40
_LIMITATIONS = (
    "Decode only: every sequence has its context already. Prefill, queues and other requests are not in these times.",
    "Attention recall is the share of the attention mass that was read. What an answer loses by it is not measured.",
)


def parts(result: RunResult) -> Parts:
    """Return the figures of the steps where the result has rows, else those of the cells, as of a sweep."""
    summary, rows = result.summary, result.rows
    keys = ["policy", *swept_keys(summary)]
    return Parts(
        columns=shown_columns(summary),
        keys=keys,
        figures=("tpot_p50_s", "stall_frac", "mass_recall_frac"),
        charts=[*_of_cells(summary, keys), *(_of_steps(summary, rows) if rows else [_front(summary)])],
        legend=LEGEND,
        limitations=_LIMITATIONS,
    )


def _of_cells(summary: Mapping[str, Any], keys: Sequence[str]) -> list[Chart]:
    """Return the time per token over the first swept field, with its interval, or as bars."""
    title = "time per output token, median"
    charts = charts_of(summary["cells"], {"tpot_p50_s": title}, keys=keys, series=lambda cell: str(cell["policy"]))
    note = "Band: the interval that follows from the profile's residuals, where the profile has them."
    return [replace(chart, note=note) for chart in charts]


def _of_steps(summary: Mapping[str, Any], rows: Rows) -> list[Chart]:
    groups = _groups(summary)
    looks = looks_of(cell["policy"] for cell in summary["cells"])
    charts = [_latency(groups, rows, looks)]
    if all(name in rows for columns, _, _ in PARTS.values() for name in columns):
        charts += [_step_parts(groups, rows), _steps(groups, rows)]
    hits = _hits(summary, rows, looks)
    return [*charts[:2], *([hits] if hits else []), *charts[2:]]


def _groups(summary: Mapping[str, Any]) -> dict[str, _Cells]:
    """Return the numbered cells of each combination of swept values, by its words."""
    keys = swept_keys(summary)
    groups: dict[str, list[tuple[int, Entry]]] = {}
    for number, cell in enumerate(summary["cells"]):
        name = ", ".join(value_name(key, cell.get(key)) for key in keys) or "all cells"
        if name in groups or len(groups) < MAX_VIEWS:
            groups.setdefault(name, []).append((number, cell))
    return dict(groups)


def _latency(groups: Mapping[str, _Cells], rows: Rows, looks: Mapping[str, Look]) -> Chart:
    views = []
    for name, cells in groups.items():
        traces: list[Trace] = []
        for number, cell in cells:
            tokens, middle_ms, low_ms, high_ms = latency_ms(rows, number)
            policy = str(cell["policy"])
            traces += line(policy, tokens, middle_ms, looks[policy], low=low_ms, high=high_ms, is_marked=False)
        spread = [value for trace in traces for value in trace["y"] if value]
        layout = {"xaxis": axis("context, tokens") | {"tickformat": ",d"}, "yaxis": value_axis("ms a token", spread)}
        views.append(View(name=name, traces=traces, layout=layout))
    note = "Line: median of 9 steps; band: 10th to 90th percentile. Logarithmic where a policy is 20 times slower."
    return Chart(title="Time per output token over the context", views=views, note=note, choice="Cells with")


def _step_parts(groups: Mapping[str, _Cells], rows: Rows) -> Chart:
    views = []
    for name, cells in groups.items():
        shown = cells[:_MAX_BARS]
        labels = [str(cell["policy"]) for _, cell in shown]
        traces = [
            rows_of_bars(part, labels, [part_ms(rows, number, columns) for number, _ in shown], color)
            for part, (columns, color, _) in PARTS.items()
        ]
        views.append(View(name=name, traces=traces, layout=bars_layout("ms a step", is_stacked=True)))
    height = bars_height(max(min(len(cells), _MAX_BARS) for cells in groups.values()))
    note = "Mean over the counted steps, on the clock of the compute stream."
    return Chart(
        title="Where the time of a step goes", views=views, note=note, choice="Cells with", height_pixels=height
    )


def _hits(summary: Mapping[str, Any], rows: Rows, looks: Mapping[str, Look]) -> Chart | None:
    if "hits" not in rows:
        return None
    keys = [key for key in swept_keys(summary) if not key.startswith("budget.")]
    groups: dict[str, dict[str, list[tuple[float, float, float, float]]]] = {}
    for number, cell in enumerate(summary["cells"]):
        if cell.get("budget_pages") is not None and cell.get("hit_frac") is not None and "host_bytes" in cell:
            view = ", ".join(value_name(key, cell.get(key)) for key in keys) or "all cells"
            groups.setdefault(view, {}).setdefault(str(cell["policy"]), []).append(hit_point(rows, number, cell))
    views = []
    for name, by_policy in list(groups.items())[:MAX_VIEWS]:
        traces = []
        for policy, points in by_policy.items():
            x, y, low, high = zip(*sorted(points), strict=True)
            traces += line(policy, x, y, looks[policy], low=low, high=high)
        layout = {"xaxis": axis("budget, % of all pages"), "yaxis": axis("selected pages on the device, %")}
        views.append(View(name=name, traces=traces, layout=layout))
    note = "Point: over all counted steps; band: 10th to 90th percentile of the steps' own rates."
    return Chart(title="Hit rate against the budget", views=views, note=note, choice="Cells with") if views else None


def _steps(groups: Mapping[str, _Cells], rows: Rows) -> Chart:
    views = []
    for name, cells in groups.items():
        for number, cell in cells:
            chosen = np.flatnonzero(counted_rows(rows, number))[:_MAX_STEPS]
            steps = rows["step"][chosen]
            traces = [
                columns_of_bars(part, steps, 1e3 * np.sum([rows[column][chosen] for column in columns], axis=0), color)
                for part, (columns, color, _) in PARTS.items()
            ]
            layout = {"barmode": "stack", "bargap": 0.12, "xaxis": axis("step"), "yaxis": axis("ms", from_zero=True)}
            views.append(View(name=f"{cell['policy']}: {name}", traces=traces, layout=layout))
    note = f"Each column is a step, the first {_MAX_STEPS} that count, by what the compute stream did."
    return Chart(title="Steps of one cell", views=views[:MAX_VIEWS], note=note)


def _front(summary: Mapping[str, Any]) -> Chart:
    """Return time over memory of every cell; those that no other beats are a series of their own."""
    front = set(front_of(summary))
    numbered: _Cells = list(enumerate(summary["cells"]))
    traces = []
    looks = {"no cell beats": Look(color="#D55E00"), "others": Look(color="#949494")}
    for name, is_front in (("others", False), ("no cell beats", True)):
        cells = [cell for number, cell in numbered if (number in front) is is_front]
        texts = [_cell_text(cell, swept_keys(summary)) for cell in cells]
        x, y = [cell["device_bytes"] / 2**30 for cell in cells], [1e3 * cell["tpot_p50_s"] for cell in cells]
        traces.append(dots(name, x, y, looks[name], texts=texts))
    times_ms = [1e3 * cell["tpot_p50_s"] for _, cell in numbered]
    layout = {"xaxis": axis("device memory, GiB"), "yaxis": value_axis("ms a token", times_ms), "hovermode": "closest"}
    note = "Point at a mark for its settings. No cell beats: in time, memory and attention recall at once."
    view = View(name="all cells", traces=traces, layout=layout)
    return Chart(title="Time against device memory", views=[view], note=note, height_pixels=440)


def _cell_text(cell: Entry, keys: Sequence[str]) -> str:
    parts = [cell["policy"], *(value_name(key, cell.get(key)) for key in keys)]
    return f"{', '.join(parts)}: {format_seconds(cell['tpot_p50_s'])}, {format_bytes(cell['device_bytes'])}"
