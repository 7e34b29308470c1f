"""The picture of `kvsim profile show`: every fitted cost over its raw samples, and how far the samples lie from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kvsim.profile.profile import Profile
from kvsim.profile.tables import CostTable
from kvsim.report.style import PALETTE, add_panels_in_rows, new_figure, title_panel
from kvsim.units import format_bytes, format_seconds

NUM_COLUMNS = 3
_MAX_LINES = 5
_LOG_FROM = 50.0
_RESIDUALS_POINTS = 130.0
"""Height of the panel of residuals that its names may take."""
_AMOUNTS = {"tokens": "attended tokens", "pages": "pages", "pieces": "pieces of a transfer", "rows": "rows"}


def profile_figure(profile: Profile) -> Figure:
    """Return a panel for each cost, line over samples, and a last one with the residuals of all.

    A line is a column of the table. A published profile has neither samples nor residuals, and says so.
    """
    tables = {name: table for name, table in profile.tables().items() if is_curve(table)}
    residuals = {name: fracs for name, table in tables.items() if (fracs := residuals_frac(table))}
    num_panels = len(tables) + bool(residuals)
    num_rows = math.ceil(num_panels / NUM_COLUMNS)
    label = (
        f"measured on {profile.machine.device}" if profile.kind == "measured" else f"{profile.kind} figures, no samples"
    )
    link = ", emulated link" if profile.link.emulated else ""
    figure = new_figure(
        1.1 + 2.7 * num_rows,
        f"What things cost: {profile.name}",
        f"{label}{link}. Lines: the table, linear between its points; dots: raw samples.",
    )
    axes = add_panels_in_rows(figure, num_panels, NUM_COLUMNS)
    for axis, (name, table) in zip(axes, tables.items(), strict=False):
        _draw_table(axis, name, table)
    if residuals:
        _draw_residuals(axes[len(tables)], residuals)
    return figure


def residuals_frac(table: CostTable) -> list[float]:
    """Return ``sample / table - 1`` for each raw sample; none where the table says 0.

    Examples
    --------
    >>> table = CostTable(amount="none", amounts=(0.0,), time_s=((2.0,),), samples=((0.0, 1.0, 2.5),))
    >>> residuals_frac(table)
    [0.25]
    """
    fitted = [(time_s, table.point_s(amount, column)) for amount, column, time_s in table.samples]
    return [time_s / table_s - 1 for time_s, table_s in fitted if table_s > 0]


def is_curve(table: CostTable) -> bool:
    """Return whether there is more to draw than one number."""
    return len(table.amounts) > 1 or len(table.columns) > 1 or bool(table.samples)


def _draw_table(axis: Any, name: str, table: CostTable) -> None:
    over_columns = len(table.amounts) == 1
    for number, fixed in enumerate(shown_lines(table)):
        color = PALETTE[number % len(PALETTE)]
        grid = grid_of(table)
        fine = _fine(grid)
        of_line = samples_of(table, fixed)
        points = [] if of_line else list(np.searchsorted(fine, grid))
        curve_s = line_s(table, fixed, fine)
        axis.plot(fine, curve_s, marker=".", markevery=points, color=color, label=line_name(table, fixed))
        x, y = zip(*of_line, strict=True) if of_line else ((), ())
        axis.scatter(x, y, s=9, color=color, alpha=0.35, linewidths=0)
    _scale(axis, table)
    title_panel(axis, name)
    amount = "sequences" if over_columns else _AMOUNTS[table.amount]
    axis.set_xlabel("tokens" if amount == "attended tokens" and not name.startswith("segments.") else amount)
    axis.set_ylabel("time")
    if not over_columns and len(table.columns) > 1:
        axis.legend(fontsize=8, frameon=True, framealpha=0.8, edgecolor="none", handlelength=1.2)


def shown_lines(table: CostTable) -> list[float]:
    """Return the columns (or the one amount) that get a line: at most 5, the first and the last among them."""
    if len(table.amounts) == 1:
        return [table.amounts[0]]
    places = np.unique(np.linspace(0, len(table.columns) - 1, min(len(table.columns), _MAX_LINES)).round().astype(int))
    return [table.columns[place] for place in places]


def grid_of(table: CostTable) -> tuple[float, ...]:
    """Return what lines are drawn over: the amounts, or the columns where there is one amount."""
    return table.columns if len(table.amounts) == 1 else table.amounts


def line_s(table: CostTable, line: float, places: Sequence[float]) -> list[float]:
    """Return the seconds of a line of `shown_lines` at places of its grid."""
    over_columns = len(table.amounts) == 1
    return [table.point_s(line, x) if over_columns else table.point_s(x, line) for x in places]


def samples_of(table: CostTable, line: float) -> list[tuple[float, float]]:
    """Return the raw samples of a line: places on its grid, and seconds."""
    if len(table.amounts) == 1:
        return [(column, time_s) for amount, column, time_s in table.samples if amount == line]
    return [(amount, time_s) for amount, column, time_s in table.samples if column == line]


def line_name(table: CostTable, column: float) -> str:
    """Return which column a line is."""
    words = {"sequences": f"batch {column:.0f}", "cached_tokens": f"after {column:.0f}"}
    words |= {"grid_pages": f"of {column:.0f} pages"}
    return words.get(table.columns_are) or format_bytes(column)


def _is_wide(grid: tuple[float, ...]) -> bool:
    positive = [x for x in grid if x > 0]
    return len(positive) == len(grid) and positive[-1] > _LOG_FROM * positive[0]


def _fine(grid: tuple[float, ...]) -> list[float]:
    """Return the grid and points between: what is straight between two of a table is no straight line on a log axis."""
    spaced = np.geomspace if _is_wide(grid) else np.linspace
    return [float(x) for x in np.union1d(grid, spaced(grid[0], grid[-1], 80))]


def _scale(axis: Any, table: CostTable) -> None:
    """Use logarithmic axes where the grid or the times span a factor of 50, and ticks that people write."""
    times_s = [time_s for row in table.time_s for time_s in row if time_s > 0]
    if _is_wide(grid_of(table)):
        axis.set_xscale("log")
    else:
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.xaxis.set_major_formatter(FuncFormatter(_count))
    if times_s and max(times_s) > _LOG_FROM * min(times_s):
        axis.set_yscale("log")
    else:
        highest_s = max([*times_s, *(row[2] for row in table.samples)], default=0.0)
        axis.set_ylim(0, 1.1 * highest_s or 1.0)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_seconds(value)))


def _count(value: float, _: object = None) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _draw_residuals(axis: Any, residuals: Mapping[str, list[float]]) -> None:
    size = min(8.0, _RESIDUALS_POINTS / len(residuals))
    percents = [[100 * residual for residual in fracs] for fracs in residuals.values()]
    title_panel(axis, "sample against table")
    axis.boxplot(percents, orientation="horizontal", whis=(5, 95), showfliers=False, widths=0.6)
    axis.set_yticks(range(1, len(residuals) + 1), [name.removeprefix("segments.") for name in residuals], fontsize=size)
    axis.invert_yaxis()
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel("%, whiskers: 5th to 95th percentile")
