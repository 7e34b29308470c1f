"""The picture of every comparison: simulated against measured about the diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from kvsim.report.sides import SIDES, side
from kvsim.report.style import add_panels_in_rows, legend_above, new_figure, policy_looks
from kvsim.report.tables import is_missing, percent
from kvsim.units import format_bytes, format_seconds

_MOST_COLUMNS = 4
_TICKS, _MOST_TICKS = 5, 12
"""Of an axis, and of all panels of a row together: more would run into each other."""
_WIDE = 3.0
"""A panel whose ends lie so many times apart has logarithmic axes."""

Cells = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Some cells of one figure."""

    title: str
    name: str
    """The figure, as `kvsim.report.sides.side` has it."""
    cells: Cells


def diagonal_figure(
    title: str, panels: Sequence[Panel], *, color_by: str, marker_by: str | None = None, band_frac: float = 0.1
) -> Figure:
    """Return the panels in rows of up to four; those without a cell that has the figure are left out.

    Colours, and markers unless `marker_by` gives them another field, distinguish the values of one field. A side with
    fields ``low`` and ``high`` shows them as its interval. The band reaches `band_frac` to either side of the diagonal.
    """
    shown = [(panel, cells) for panel in panels if (cells := [cell for cell in panel.cells if _has(cell, panel.name)])]
    every = [cell for panel in panels for cell in panel.cells]
    colors = {value: look["color"] for value, look in policy_looks(cell[color_by] for cell in every).items()}
    shapes = policy_looks(cell[marker_by or color_by] for cell in every)
    markers = {value: look["marker"] for value, look in shapes.items()}
    num_columns = min(max(1, len(shown)), _MOST_COLUMNS)
    num_rows = max(1, -(-len(shown) // num_columns))
    figure = new_figure(1.2 + 3.6 * num_rows, title, f"The band is {percent(band_frac, 0)} to either side.")
    axes = add_panels_in_rows(figure, len(shown), num_columns)
    for axis, (panel, cells) in zip(axes, shown, strict=False):
        _draw_diagonal(axis, panel, cells, band_frac, num_ticks=min(_TICKS, _MOST_TICKS // num_columns))
        for cell in cells:
            look = {"color": colors[cell[color_by]], "marker": markers[cell[marker_by or color_by]]}
            sides = {which: cell[side(panel.name, which)] for which in SIDES}
            arms = {f"{place}err": _arms(cell, panel.name, which) for place, which in zip("xy", SIDES, strict=True)}
            axis.errorbar(sides["measured"], sides["simulated"], **arms, **look, markersize=6, elinewidth=1, zorder=2)
    for axis in axes[::num_columns]:
        axis.set_ylabel("simulated")
    if marker_by is None:
        handles = {_named(color_by, value): _mark(color, markers[value]) for value, color in colors.items()}
    else:
        handles = {_named(color_by, value): _mark(color, "o") for value, color in colors.items()}
        handles |= {_named(marker_by, value): _mark("#555555", marker) for value, marker in markers.items()}
    legend_above(figure, handles)
    return figure


def _draw_diagonal(axis: Any, panel: Panel, cells: Cells, band_frac: float, num_ticks: int) -> None:
    """Draw diagonal and band, and write a few ticks in the figure's unit."""
    ends = [cell[side(panel.name, which)] for cell in cells for which in SIDES]
    is_wide = max(ends) > _WIDE * min(ends) and not panel.name.endswith("_frac")
    low, high = (0.8 * min(ends), 1.25 * max(ends)) if is_wide else (0.93 * min(ends), 1.07 * max(ends))
    line = np.array([low, high])
    axis.plot(line, line, color="0.5", linewidth=1, zorder=1)
    axis.fill_between(line, (1 - band_frac) * line, (1 + band_frac) * line, color="0.92", zorder=0)
    scale = "log" if is_wide else "linear"
    axis.set(xscale=scale, yscale=scale, xlim=(low, high), ylim=(low, high), title=panel.title, xlabel="measured")
    show = _unit_text(panel.name)
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_locator(_log_ticks(panel.name, low, high) if is_wide else MaxNLocator(num_ticks))
        ticks.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
        ticks.set_minor_formatter(NullFormatter())


def _log_ticks(name: str, low: float, high: float) -> LogLocator:
    if name.endswith("_bytes"):
        return LogLocator(base=2 ** max(1, round(np.log2(high / low) / _TICKS)))
    decades = np.log10(high / low)
    return LogLocator(subs=(1,) if decades > 3 else (1, 3) if decades > 1.5 else (1, 2, 5))


def _unit_text(name: str) -> Any:
    if name.endswith("_s"):
        return format_seconds
    return format_bytes if name.endswith("_bytes") else lambda value: percent(value, 0)


def _arms(cell: Mapping[str, Any], name: str, which: str) -> Any:
    """Return how far an interval reaches below and above; None of a side without one."""
    low, high = cell.get(side(name, f"{which}_low")), cell.get(side(name, f"{which}_high"))
    middle = cell[side(name, which)]
    return None if low is None or high is None else [[max(middle - low, 0.0)], [max(high - middle, 0.0)]]


def _mark(color: str, marker: str) -> Line2D:
    return Line2D([], [], color=color, marker=marker, linestyle="")


def _named(field: str, value: Any) -> str:
    """Return a value as a legend names it: by itself where it is a name."""
    if isinstance(value, str):
        return value
    return f"{value:,} tokens" if field.endswith("_tokens") else f"{field.replace('_', ' ')} {value}"


def _has(cell: Mapping[str, Any], name: str) -> bool:
    """Return whether both sides are known; of a time or size, which may get logarithmic axes, none is 0."""
    values = [cell[side(name, which)] for which in SIDES]
    return not any(map(is_missing, values)) and (name.endswith("_frac") or all(values))
