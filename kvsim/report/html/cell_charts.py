"""Figures of cells as lines over a swept field, or as bars where none is a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kvsim.report.html.charts import (
    Chart,
    View,
    axis,
    bars_height,
    bars_layout,
    line,
    looks_of,
    rows_of_bars,
    value_axis,
)
from kvsim.report.tables import is_missing
from kvsim.units import format_bytes

Cell = Mapping[str, Any]
MAX_VIEWS = 60
"""States of a figure: a page of many thousand cells would grow too large."""
_BINARY = (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10))
_TIMES = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))


def lines_over(
    cells: Sequence[Cell],
    name: str,
    title: str,
    series: Callable[[Cell], str],
    *,
    over: str,
    over_title: str = "",
    views_by: Sequence[str] = (),
) -> Chart:
    """Return the figure `name` of cells over the field `over`: a line a series, a view for each value of `views_by`."""
    known = [cell for cell in cells if not is_missing(cell.get(name)) and not is_missing(cell.get(over))]
    factor, unit = scale_of(name, [float(cell[name]) for cell in known])
    x_factor, x_unit = scale_of(over, [float(cell[over]) for cell in known])
    looks = looks_of(series(cell) for cell in cells)
    views = []
    for view_name, group in groups_of(known, views_by).items():
        traces = []
        for one in dict.fromkeys(series(cell) for cell in group):
            points = sorted((cell for cell in group if series(cell) == one), key=lambda cell: float(cell[over]))
            x = [float(cell[over]) / x_factor for cell in points]
            y = [float(cell[name]) / factor for cell in points]
            traces += line(one, x, y, looks[one], **_interval(points, name, factor))
        places = [float(cell[over]) / x_factor for cell in group]
        values = [float(cell[name]) / factor for cell in group]
        y_axis = value_axis(with_unit(title, unit), values)
        layout = {"xaxis": axis(with_unit(over_title or field_title(over), x_unit), values=places), "yaxis": y_axis}
        views.append(View(name=view_name, traces=traces, layout=layout))
    return Chart(title=_capital(title), views=views, choice="Cells with")


def bars_of(cells: Sequence[Cell], name: str, title: str, label: Callable[[Cell], str]) -> Chart:
    """Return the figure `name` of cells as bars."""
    known = [cell for cell in cells if not is_missing(cell.get(name))]
    factor, unit = scale_of(name, [float(cell[name]) for cell in known])
    looks = looks_of(label(cell) for cell in cells)
    traces = [
        rows_of_bars(label(cell), [label(cell)], [float(cell[name]) / factor], looks[label(cell)].color)
        for cell in known
    ]
    layout = bars_layout(with_unit(title, unit), is_stacked=True)
    view = View(name="all", traces=traces, layout=layout)
    return Chart(title=_capital(title), views=[view], height_pixels=bars_height(len(known)))


def groups_of(cells: Sequence[Cell], keys: Sequence[str]) -> dict[str, list[Cell]]:
    """Return cells by the values of `keys` in words, at most `MAX_VIEWS` groups.

    Examples
    --------
    >>> list(groups_of([{"run.batch": 1}, {"run.batch": 4}], ["run.batch"]))
    ['batch 1', 'batch 4']
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        name = ", ".join(value_name(key, cell.get(key)) for key in keys) or "all cells"
        if name in groups or len(groups) < MAX_VIEWS:
            groups.setdefault(name, []).append(cell)
    return groups


def value_name(key: str, value: Any) -> str:
    """Return a field and its value in words.

    Examples
    --------
    >>> value_name("trace.extrapolate.context_tokens", 32768), value_name("budget.context_frac", 0.125)
    ('32,768 context tokens', 'budget 12.5% of the context')
    """
    name = field_title(key)
    if is_missing(value):
        return f"{name} not set"
    if key == "budget.context_frac":
        return f"budget {100 * value:g}% of the context"
    if isinstance(value, bool):
        return f"{name} {'on' if value else 'off'}"
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{name} {format_bytes(value)}"
    number = f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{number} {name}" if key.endswith(("_tokens", "_pages", "_blocks")) else f"{name} {number}"


def field_title(key: str) -> str:
    """Return the last part of a dotted field in words, its unit left to the axis."""
    name = key.rsplit(".", 1)[-1]
    if key == "budget.context_frac":
        return "budget, of the context"
    for unit in ("_bytes_per_s", "_bytes", "_frac", "_s"):
        name = name.removesuffix(unit)
    return name.replace("_", " ")


def scale_of(name: str, values: Sequence[float]) -> tuple[float, str]:
    """Return by what values of a field are divided to be read, and the unit that they then have.

    Examples
    --------
    >>> scale_of("tpot_p50_s", [0.005, 0.3]), scale_of("hit_frac", [0.5]), scale_of("hits", [3.0])
    ((0.001, 'ms'), (0.01, '%'), (1.0, ''))
    """
    most = max((abs(value) for value in values), default=0.0)
    if name.endswith("_bytes_per_s"):
        return 1e9, "GB/s"
    if name.endswith("_bytes"):
        return next(((size, unit) for unit, size in _BINARY if most >= size), (1.0, "B"))
    if name.endswith("_frac"):
        return 0.01, "%"
    if name.endswith("_s") and not name.endswith("_per_s"):
        return next(((size, unit) for unit, size in _TIMES if most >= size), (1e-6, "µs"))
    return 1.0, ""


def with_unit(title: str, unit: str) -> str:
    """Return the title of an axis."""
    return f"{title}, {unit}" if unit else title


def _interval(points: Sequence[Cell], name: str, factor: float) -> dict[str, Any]:
    """Return the ends of a figure's interval where its cells have one: ``tpot_interval_s`` of ``tpot_p50_s``."""
    field = f"{name.split('_')[0]}_interval_s"
    ends = [cell.get(field) for cell in points]
    if not name.endswith(("_p50_s", "_mean_s")) or not all(isinstance(end, list) and len(end) == 2 for end in ends):
        return {}
    pairs = [(float(end[0]) / factor, float(end[1]) / factor) for end in ends if end]
    return {"low": [low for low, _ in pairs], "high": [high for _, high in pairs]}


def _capital(title: str) -> str:
    return title[:1].upper() + title[1:]
