"""Pictures of serving: distributions, the engine over time, latency over the rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from kvsim.experiments.serving.report.tables import text_of
from kvsim.report.results import RunResult
from kvsim.report.style import PALETTE, add_panels, legend_above, new_figure, png, title_panel


def figures(result: RunResult) -> dict[str, bytes]:
    """Return the distributions, the timeline of one cell, and latency over the rate where that is swept."""
    pictures = {"serving_cdf.png": png(cdf_figure(result)), "serving_timeline.png": png(timeline_figure(result))}
    rate = rate_field(result.summary)
    if rate is not None:
        pictures["serving_rate.png"] = png(rate_figure(result.summary, rate))
    return pictures


def rate_field(summary: Mapping[str, Any]) -> str | None:
    """Return the swept field that sets how fast requests come; None where none does."""
    for name in ("arrivals.rate_hz", "arrivals.speed", "arrivals.users"):
        if name in summary["swept"]:
            return name
    return None


def cdf_figure(result: RunResult) -> Figure:
    """Return the distribution of each latency, a line a cell."""
    summary, rows, gaps = result.summary, result.rows, result.tables["itl"]
    figure = new_figure(7.6, f"{summary['scenario']}: latency of requests", _foot(summary), is_plain_grid=True)
    axes = add_panels(figure, 2, 2)
    panels = {"ttft_s": "time to first token (s)", "tpot_s": "time per output token (s)", "e2e_s": "end to end (s)"}
    handles: dict[str, Any] = {}
    for number, cell in enumerate(summary["cells"][: len(PALETTE)]):
        own = rows["cell"] == number
        look = {"color": PALETTE[number % len(PALETTE)], "linewidth": 1.8}
        for axis, (name, title) in zip((axes[0][0], axes[0][1], axes[1][1]), panels.items(), strict=True):
            values = np.sort(rows[name][own])
            values = values[~np.isnan(values)]
            handles[_label(summary, cell)] = axis.step(values, np.arange(1, values.size + 1) / values.size, **look)[0]
            axis.set(xlabel=title, ylim=(0, 1))
        chosen = gaps["cell"] == number
        counts = np.cumsum(gaps["count"][chosen])
        axes[1][0].step(gaps["itl_s"][chosen], counts / counts[-1] if counts.size else counts, **look)
    axes[1][0].set(xlabel="time between tokens, all requests (s)", ylim=(0, 1))
    for row in axes:
        row[0].set_ylabel("share of requests" if row is axes[0] else "share of gaps")
        for axis in row:
            axis.set_xscale("log")
            mark_plainly(axis.xaxis, *axis.get_xlim())
    legend_above(figure, handles if len(summary["cells"]) > 1 else {})
    return figure


def timeline_figure(result: RunResult) -> Figure:
    """Return what ran and waited, the tokens of steps and the use of the cache, in the cell with most preemptions."""
    summary = result.summary
    cells = summary["cells"]
    number = max(range(len(cells)), key=lambda place: (cells[place]["preemptions"], cells[place]["running_mean"]))
    own = _binned({name: values[result.tables["timeline"]["cell"] == number] for name, values in
                   result.tables["timeline"].items()})  # fmt: skip
    label = _label(summary, cells[number])
    title = f"{summary['scenario']}: the engine over time" + (f", {label}" if label else "")
    figure = new_figure(7.6, title, _foot(summary), is_plain_grid=True)
    top, middle, bottom = (row[0] for row in add_panels(figure, 3, 1, sharex=True))
    start_s = own["start_s"]
    handles = {
        "running": top.step(start_s, own["running"], where="post", color=PALETTE[0])[0],
        "waiting": top.step(start_s, own["waiting"], where="post", color=PALETTE[1])[0],
    }
    decode = own["tokens_per_s"] - own["prefill_tokens_per_s"]
    handles["prefill tokens"] = middle.fill_between(
        start_s, decode, own["tokens_per_s"], step="post", color=PALETTE[3], alpha=0.7
    )
    handles["decode tokens"] = middle.fill_between(start_s, 0, decode, step="post", color=PALETTE[2], alpha=0.8)
    bottom.fill_between(start_s, 0, own["kv_used_frac"], step="post", color=PALETTE[5], alpha=0.8)
    top.set(ylabel="requests")
    middle.set(ylabel="tokens/s")
    bottom.set(ylabel="KV in use", ylim=(0, 1), xlabel="time (s)")
    for axis in (top, middle):
        axis.set_ylim(bottom=0)
    bottom.set_xlim(0, own["end_s"])
    legend_above(figure, handles)
    return figure


def rate_figure(summary: Mapping[str, Any], rate: str) -> Figure:
    """Return latency and throughput over the rate, with their intervals; a line for each combination of the rest."""
    titles = {"ttft_p99_s": "TTFT p99 (s)", "tpot_p50_s": "TPOT p50 (s)", "requests_hz": "served (requests/s)"}
    if any("met_frac" in cell for cell in summary["cells"]):
        titles["met_frac"] = "share meeting the SLO"
    figure = new_figure(4.6, f"{summary['scenario']}: what a rate costs", _foot(summary))
    axes = add_panels(figure, 1, len(titles))[0]
    others = [name for name in summary["swept"] if name != rate]
    handles: dict[str, Any] = {}
    for place, (label, group) in enumerate(_groups(summary, others).items()):
        group = sorted(group, key=lambda cell: cell[rate])
        over = [cell[rate] for cell in group]
        color = PALETTE[place % len(PALETTE)]
        for axis, name in zip(axes, titles, strict=True):
            handles[label] = axis.plot(over, [cell[name] for cell in group], color=color, marker="o", markersize=4)[0]
            edges = [cell["intervals"].get(name, (np.nan, np.nan)) for cell in group]
            axis.fill_between(over, *np.array(edges, dtype=float).T, color=color, alpha=0.18, linewidth=0)
    for axis, title in zip(axes, titles.values(), strict=True):
        axis.set(xlabel=_RATE_TITLES[rate])
        title_panel(axis, title)
    axes[0].set_yscale("log")
    mark_plainly(axes[0].yaxis, *axes[0].get_ylim())
    if "met_frac" in titles:
        axes[-1].set_ylim(0, 1.02)
    legend_above(figure, handles if others else {})
    return figure


_RATE_TITLES = {
    "arrivals.rate_hz": "rate (sessions/s)",
    "arrivals.speed": "speed of the trace",
    "arrivals.users": "users",
}
_MOST_BINS = 400


def _binned(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a timeline in at most `_MOST_BINS` stretches of equal length, each the mean over its time."""
    edges = np.linspace(0, table["end_s"][-1], min(_MOST_BINS, table["end_s"].size) + 1)
    binned = {"start_s": edges[:-1], "end_s": edges[-1]}
    lasted_s = table["end_s"] - table["start_s"]
    for name in ("running", "waiting", "kv_used_frac", "tokens_per_s", "prefill_tokens_per_s"):
        totals = np.interp(edges, np.r_[0, table["end_s"]], np.r_[0, np.cumsum(table[name] * lasted_s)])
        binned[name] = np.diff(totals) / np.diff(edges)
    return binned


def mark_plainly(side: Any, low: float, high: float) -> None:
    """Put numbers that people write on a logarithmic axis."""
    side.set_major_locator(LogLocator(subs=(1,) if high > 300 * low else (1, 2, 5)))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    side.set_minor_locator(NullLocator())


def _groups(summary: Mapping[str, Any], others: list[str]) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for cell in summary["cells"]:
        groups.setdefault(_named(cell, others), []).append(cell)
    return groups


def _label(summary: Mapping[str, Any], cell: Mapping[str, Any]) -> str:
    return _named(cell, summary["swept"])


def _named(cell: Mapping[str, Any], fields: Any) -> str:
    return ", ".join(f"{name.rpartition('.')[2]} {text_of(name)(cell[name])}" for name in fields)


def _foot(summary: Mapping[str, Any]) -> str:
    profile = summary["profile"]
    how = "Measured." if summary.get("is_measured") else f"Simulated on {profile['name']} ({profile['kind']} costs)."
    return f"{how} {summary['cells'][0]['num_requests']:,} requests."
