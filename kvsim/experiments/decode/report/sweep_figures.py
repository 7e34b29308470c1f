"""The pictures of a sweep: what time costs in memory and mass, any two fields against each other, what each one does.

Importing this loads seaborn. Nothing here opens a window or picks a path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.report.figures import costs_text, some_of
from kvsim.experiments.decode.report.sweep_front import conditions_of, field_name, front_of, varied_fields
from kvsim.experiments.decode.report.sweep_tables import WEIGHED, weights_of
from kvsim.report.frames import cells_frame
from kvsim.report.style import (
    PALETTE,
    add_panels,
    add_panels_in_rows,
    legend_above,
    log_ticks,
    new_figure,
    png,
    policy_looks,
    title_panel,
)
from kvsim.scenario.toml import nearest

Summary = Mapping[str, Any]

COLORS = "cividis"
"""A colour map that looks alike to all eyes, and is in order in grey."""
_MAX_PANELS = 4
_LOG_FROM = 5.0
_LOG_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)


def sweep_figures(summary: Summary, fields: Sequence[str] = ()) -> dict[str, bytes]:
    """Return the pictures of a sweep as PNG files by name; those left out that nothing varied for.

    Parameters
    ----------
    fields
        Two fields for the heat map, ``policy`` or swept ones; the two that matter most for the time where empty.

    Raises
    ------
    ScenarioError
        If `fields` names one that does not vary.
    """
    figures: dict[str, Figure | None] = {
        "pareto.png": pareto_figure(summary),
        "heat_map.png": heat_figure(summary, fields),
        "lines.png": lines_figure(summary),
        "fields.png": weights_figure(summary),
    }
    return {name: png(figure) for name, figure in figures.items() if figure is not None}


def pareto_figure(summary: Summary) -> Figure:
    """Return time per token against device memory, a point a cell, coloured by the attention mass that was kept."""
    frame = cells_frame(summary)
    front = front_of(summary)
    conditions = conditions_of(summary)
    figure = new_figure(
        6.2,
        "Time per output token against device memory",
        f"Ring: none is at once faster, smaller and keeps more mass. Line: least time by memory. {costs_text(summary)}",
    )
    ((axis,),) = add_panels(figure, 1, 1)
    unit, size = ("GiB", 2**30) if frame["device_bytes"].max() >= 2**30 else ("MiB", 2**20)
    memory, time_ms = frame["device_bytes"] / size, frame["tpot_p50_s"] * 1e3
    recall = 100 * frame["mass_recall_frac"].astype(float)
    low = float(recall.min()) if recall.notna().any() else 0.0
    norm = Normalize(min(low, 99.0), 100.0)
    markers: dict[str, Any] = {}
    for policy, look in policy_looks(frame["policy"]).items():
        own = (frame["policy"] == policy).to_numpy()
        axis.scatter(
            memory[own],
            time_ms[own],
            c=recall[own],
            cmap=COLORS,
            norm=norm,
            marker=look["marker"],
            s=36,
            linewidths=0,
            plotnonfinite=True,
        )
        markers[policy] = axis.scatter([], [], marker=look["marker"], color="#555555")
    axis.scatter(memory.iloc[front], time_ms.iloc[front], s=90, facecolors="none", edgecolors="black", linewidths=0.9)
    for members in frame.groupby(conditions, sort=False).indices.values() if conditions else [range(len(frame))]:
        edge = _lower_edge(memory.iloc[list(members)], time_ms.iloc[list(members)])
        axis.plot(*edge, color=PALETTE[7], linewidth=1.2, drawstyle="steps-post", zorder=0)
    _limit(axis, summary["device_memory_bytes"] / size, memory)
    _scale(axis, time_ms)
    axis.set_xlabel(f"device memory, {unit}")
    axis.set_ylabel("time per token (p50), ms")
    bar = figure.colorbar(ScalarMappable(norm, colormaps[COLORS]), ax=axis, pad=0.01, aspect=30)
    bar.set_label("attention recall, %")
    legend_above(figure, markers)
    return figure


def heat_figure(summary: Summary, fields: Sequence[str] = ()) -> Figure | None:
    """Return the median time per token over two fields, a panel a policy where that is neither; None without two."""
    varied = varied_fields(summary)
    across, down = _two_fields(summary, varied, fields)
    if across is None or down is None:
        return None
    frame = cells_frame(summary).assign(ms=lambda table: table["tpot_p50_s"] * 1e3)
    policies = [None] if "policy" in (across, down) else some_of(list(dict.fromkeys(frame["policy"])), 2 * _MAX_PANELS)
    tables = {policy: _heat_table(frame, across, down, policy) for policy in policies}
    values = np.concatenate([table.to_numpy(dtype=float).ravel() for table in tables.values()])
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    norm = LogNorm(low, high) if high > _LOG_FROM * low else Normalize(low, high if high > low else low * 1.01)
    num_columns = min(len(policies), _MAX_PANELS)
    num_rows = -(-len(policies) // num_columns)
    height = max(1.6, 0.42 * next(iter(tables.values())).shape[0])
    rest = _others(varied, across, down)
    over = f"Median over {rest}. " if rest else ""
    figure = new_figure(
        1.7 + num_rows * (height + 0.75),
        f"Time per output token: {field_name(down)} against {field_name(across)}",
        f"{over}{costs_text(summary)}",
    )
    axes = add_panels_in_rows(figure, len(policies), num_columns)
    for place, axis in enumerate(axes):
        table = tables[policies[place]]
        seaborn.heatmap(
            table,
            ax=axis,
            cmap=f"{COLORS}_r",
            norm=norm,
            cbar=False,
            annot=table.size <= 80,
            fmt=".3g",
            annot_kws={"size": 8.5},
            linewidths=0.5,
        )
        axis.grid(False)
        title_panel(axis, policies[place] or "")
        axis.tick_params(axis="x", rotation=0)
        axis.tick_params(axis="y", rotation=0, labelleft=place % num_columns == 0)
        axis.set_xlabel(field_name(across) if place + num_columns >= len(policies) else "")
        axis.set_ylabel(field_name(down) if place % num_columns == 0 else "")
    bar = figure.colorbar(ScalarMappable(norm, colormaps[f"{COLORS}_r"]), ax=figure.axes, pad=0.01, aspect=30)
    bar.set_label("time per token (p50), ms")
    if isinstance(norm, LogNorm):
        log_ticks(bar.ax.yaxis, _LOG_STEPS)
    else:
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


def lines_figure(summary: Summary) -> Figure | None:
    """Return the time per token over the field of numbers that matters most, a line a policy; None without one."""
    frame = cells_frame(summary).assign(ms=lambda table: table["tpot_p50_s"] * 1e3)
    ranked = _ranked(summary, varied_fields(summary))
    numbers = [field for field in ranked if field != "policy" and pd.api.types.is_numeric_dtype(frame[field])]
    numbers.sort(key=lambda field: not field.startswith("budget."))
    if not numbers:
        return None
    across, others = numbers[0], [field for field in ranked if field not in (numbers[0], "policy", "run.seed")]
    split = others[0] if others else None
    values = some_of(list(dict.fromkeys(frame[split])), _MAX_PANELS) if split else [None]
    looks = policy_looks(frame["policy"])
    policies = list(looks)[: 2 * _MAX_PANELS]
    rest = _others(varied_fields(summary), across, split)
    spread = f"Line: median over {rest}; band: 10th to 90th percentile. " if rest else ""
    figure = new_figure(4.6, f"Time per output token over {field_name(across)}", f"{spread}{costs_text(summary)}")
    (axes,) = add_panels(figure, 1, len(values), sharey=True)
    handles: dict[str, Any] = {}
    for axis, value in zip(axes, values, strict=True):
        shown = frame if value is None else frame[frame[split] == value]
        for policy in policies:
            own = shown[shown["policy"] == policy]
            if own.empty:
                continue
            seaborn.lineplot(
                own,
                x=across,
                y="ms",
                ax=axis,
                estimator="median",
                errorbar=("pi", 80),
                markeredgewidth=0,
                **looks[policy],
            )
            handles.setdefault(policy, axis.lines[-1])
        title_panel(axis, "" if value is None else f"{field_name(str(split))}: {value}")
        axis.set_xlabel(field_name(across))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_ylabel("time per token (p50), ms")
    _scale(axes[0], frame["ms"])
    legend_above(figure, handles)
    return figure


def weights_figure(summary: Summary) -> Figure | None:
    """Return how much each field matters for time, stall and mass: alone, and together with others; None without."""
    weights = weights_of(summary)
    if weights.empty:
        return None
    fields = list(dict.fromkeys(weights["field"]))
    figure = new_figure(
        1.9 + 0.36 * len(fields),
        "How much each field matters",
        "Share of the variance over all cells: dark alone, light together with other fields (of time: its logarithm). "
        f"{costs_text(summary)}",
    )
    (axes,) = add_panels(figure, 1, len(WEIGHED), sharey=True)
    for axis, (figure_name, title) in zip(axes, WEIGHED.items(), strict=True):
        own = weights[weights["figure"] == figure_name].set_index("field").loc[fields]
        axis.barh(range(len(fields)), 100 * own["total_frac"].fillna(0.0), color="#C4DCEE", height=0.7)
        axis.barh(range(len(fields)), 100 * own["alone_frac"].fillna(0.0), color=PALETTE[0], height=0.4)
        title_panel(axis, f"{title}: nothing varies" if own["total_frac"].isna().all() else title)
        axis.set_xlim(0, 100)
        axis.set_xlabel("share of the variance, %")
        axis.grid(False, axis="y")
    axes[0].set_yticks(range(len(fields)), [field_name(field) for field in fields])
    axes[0].invert_yaxis()
    return figure


def _others(varied: Sequence[str], *drawn: str | None) -> str:
    """Return the names of the fields that a figure has no axis or panel for, policies apart."""
    return ", ".join(field_name(field).partition(",")[0] for field in varied if field not in (*drawn, "policy"))


def _two_fields(summary: Summary, varied: list[str], asked: Sequence[str]) -> tuple[str | None, str | None]:
    for field in asked:
        if field not in varied:
            raise ScenarioError(f"heat map: {field!r} does not vary in this sweep{nearest(field, varied)}")
    if asked and len(set(asked)) != 2:
        raise ScenarioError(f"heat map: give two different fields, found {', '.join(asked)}")
    chosen = list(asked) or _ranked(summary, [field for field in varied if field not in ("policy", "run.seed")])
    if len(chosen) < 2 and "policy" in varied:
        chosen.append("policy")
    return (chosen[0], chosen[1]) if len(chosen) > 1 else (None, None)


def _ranked(summary: Summary, fields: Sequence[str]) -> list[str]:
    """Return the fields, those first that account for most of the time per token."""
    weights = weights_of(summary)
    of_time = weights[weights["figure"] == "tpot_p50_s"].set_index("field")["total_frac"].fillna(0.0)
    conditions = conditions_of(summary)
    return sorted(fields, key=lambda field: (field in conditions and field != "run.batch", -float(of_time[field])))


def _heat_table(frame: pd.DataFrame, across: str, down: str, policy: str | None) -> pd.DataFrame:
    own = frame if policy is None else frame[frame["policy"] == policy]
    return own.pivot_table(index=down, columns=across, values="ms", aggfunc="median", sort=down != "policy")


def _lower_edge(memory: pd.Series[float], time_ms: pd.Series[float]) -> tuple[Any, Any]:
    """Return the least time that each memory size reaches, as steps."""
    ordered = pd.DataFrame({"memory": memory, "time": time_ms}).sort_values(["memory", "time"])
    best = ordered["time"].cummin()
    steps = ordered[best.lt(best.shift(fill_value=np.inf))]
    return steps["memory"].to_numpy(), steps["time"].to_numpy()


def _limit(axis: Any, limit: float, memory: pd.Series[float]) -> None:
    """Mark where the device ends, where that is anywhere near what was swept."""
    if limit <= 1.3 * float(memory.max()):
        axis.axvline(limit, color="#555555", linewidth=1.2, linestyle=(0, (4, 2.5)))
        axis.text(limit, 0.99, " device ", transform=axis.get_xaxis_transform(), va="top", fontsize=9)


def _scale(axis: Any, time_ms: pd.Series[float]) -> None:
    low, high = float(time_ms.min()), float(time_ms.max())
    if high <= _LOG_FROM * low:
        axis.set_ylim(0, 1.05 * high)
        return
    axis.set_yscale("log")
    log_ticks(axis.yaxis, _LOG_STEPS)
