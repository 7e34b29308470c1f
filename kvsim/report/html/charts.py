"""Interactive figures as plain data: what plotly.js draws, without the Python package that wraps it.

A figure has views, of which a reader chooses one. Every trace belongs to a series (``meta.series``), which the legend
of the page shows and hides. All text that plotly.js would read as markup is escaped here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

from kvsim.report.style import PALETTE, POLICY_COLORS, policy_looks

Trace: TypeAlias = dict[str, Any]
"""A trace of plotly.js."""

_DASHES = ("solid", "dash", "dot", "dashdot")
_SOLID = 3
"""Policies before the first dashed line."""
_DIGITS = 6
_LOG_FROM = 8.0
"""Amounts that span more than this factor stand on a logarithmic axis."""
_MOST_TICKS = 8
_ROW_PIXELS, _FRAME_PIXELS = 34, 110


Values: TypeAlias = Sequence[float] | NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One state of a figure: the traces, and what they need of the layout."""

    name: str
    traces: Sequence[Trace]
    layout: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A figure of a page."""

    title: str
    views: Sequence[View]
    note: str = ""
    """What a reader must know to read it, below it."""
    choice: str = "Cell"
    """What the views differ in."""
    height_pixels: int = 380

    def data(self) -> dict[str, Any]:
        """Return what the page's script reads."""
        views = [{"name": view.name, "traces": list(view.traces), "layout": dict(view.layout)} for view in self.views]
        return {"height": self.height_pixels, "views": views}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Colour and dashes of a series."""

    color: str
    dash: str = "solid"
    width: float = 2.5


def looks_of(names: Iterable[Any]) -> dict[str, Look]:
    """Return the look of each series, no two alike: policies have the colours of the pictures, others the palette's."""
    ordered = list(dict.fromkeys(map(str, names)))
    if not any(name in POLICY_COLORS for name in ordered):
        return palette_looks(ordered)
    colors = policy_looks(ordered)
    looks: dict[str, Look] = {}
    for place, name in enumerate(ordered):
        color = colors[name]["color"]
        num_before = sum(look.color == color for look in looks.values())
        dash = _DASHES[num_before % len(_DASHES)] if num_before else "dash" if place == _SOLID else "solid"
        looks[name] = Look(color=color, dash=dash, width=_width(place))
    return looks


def palette_looks(names: Iterable[Any]) -> dict[str, Look]:
    """Return a colour of the palette for each name, in order; dashed from the ninth on."""
    looks = {}
    for place, name in enumerate(dict.fromkeys(map(str, names))):
        turn, of_turn = divmod(place, len(PALETTE))
        looks[name] = Look(color=PALETTE[of_turn], dash=_DASHES[turn % len(_DASHES)], width=_width(place))
    return looks


def _width(place: int) -> float:
    """Return the width of a line: thinner from one to the next, so that equal ones can be seen."""
    return max(3.4 - 0.4 * place, 1.8)


def line(
    name: str,
    x: Values,
    y: Values,
    look: Look,
    *,
    low: Values | None = None,
    high: Values | None = None,
    is_marked: bool = True,
) -> list[Trace]:
    """Return a line with marks, and a band from `low` to `high` where those are known."""
    traces = []
    if low is not None and high is not None:
        traces.append(_band(name, x, low, high, look))
    main = _trace("scatter", name, x=numbers(x), y=numbers(y), mode="lines+markers" if is_marked else "lines")
    main |= {
        "line": {"color": look.color, "dash": look.dash, "width": look.width},
        "marker": {"color": look.color, "size": 8},
    }
    return [*traces, main]


def dots(name: str, x: Values, y: Values, look: Look, *, texts: Sequence[str] = ()) -> Trace:
    """Return marks without a line; `texts` are shown over them."""
    trace = _trace("scatter", name, x=numbers(x), y=numbers(y), mode="markers")
    trace["marker"] = {"color": look.color, "size": 9, "opacity": 0.85}
    if texts:
        trace |= {"hovertext": [escaped(text) for text in texts], "hoverinfo": "text"}
    return trace


def ranges_of(name: str, labels: Sequence[str], x: Values, ends: Sequence[tuple[float, float]], look: Look) -> Trace:
    """Return a mark and a level line from end to end for each label."""
    trace = _trace("scatter", name, x=numbers(x), y=list(map(escaped, labels)), mode="markers")
    above = [high - at for (_, high), at in zip(ends, x, strict=True)]
    below = [at - low for (low, _), at in zip(ends, x, strict=True)]
    spread = {"type": "data", "symmetric": False, "array": numbers(above), "arrayminus": numbers(below)}
    return trace | {
        "marker": {"color": look.color, "size": 10},
        "error_x": spread | {"thickness": look.width, "width": 0},
    }


def rows_of_bars(name: str, labels: Sequence[str], values: Sequence[float | None], color: str) -> Trace:
    """Return horizontal bars, one for each label."""
    marker = {"color": color}
    return _trace("bar", name, orientation="h", x=numbers(values), y=list(map(escaped, labels)), marker=marker)


def columns_of_bars(name: str, x: Values, values: Values, color: str) -> Trace:
    """Return upright bars, to be stacked."""
    return _trace("bar", name, x=numbers(x), y=numbers(values), marker={"color": color, "line": {"width": 0}})


def across(at: float, name: str, x: Values) -> Trace:
    """Return a level line over the range of `x`."""
    ends = [min(x), max(x)]
    trace = _trace("scatter", name, x=numbers(ends), y=numbers([at, at]), mode="lines")
    return trace | {"line": {"color": "#555555", "dash": "dash", "width": 1.5}}


def upright(x: float) -> dict[str, Any]:
    """Return a part of a layout: a dashed line from bottom to top."""
    line = {"color": "#8a929b", "dash": "dash", "width": 1.5}
    shape = {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line}
    return {"shapes": [shape]}


def axis(title: str, *, values: Iterable[float] = (), from_zero: bool = False) -> dict[str, Any]:
    """Return an axis; logarithmic where its `values` span a factor of 8, with a tick at each of a few.

    Examples
    --------
    >>> axis("batch", values=[1, 2, 16])["type"]
    'log'
    >>> axis("hits, %")["title"]["text"]
    'hits, %'
    """
    known = sorted({float(value) for value in values if math.isfinite(value)})
    is_log = bool(known) and known[0] > 0 and known[-1] >= _LOG_FROM * known[0]
    layout: dict[str, Any] = {"title": {"text": escaped(title)}, "type": "log" if is_log else "linear"}
    ticks = known if 1 < len(known) <= _MOST_TICKS else _log_ticks(known) if is_log else []
    if ticks:
        layout |= {"tickvals": ticks, "ticktext": [tick_text(value) for value in ticks]}
    if from_zero and not is_log:
        layout["rangemode"] = "tozero"
    return layout


def value_axis(title: str, values: Iterable[float], *, log_from: float = 20.0) -> dict[str, Any]:
    """Return the axis of a figure's values: from zero, or logarithmic where they span a factor of `log_from`."""
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    layout: dict[str, Any] = {"title": {"text": escaped(title)}, "type": "linear", "rangemode": "tozero"}
    if known and min(known) > 0 and max(known) > log_from * min(known):
        ticks = _log_ticks([min(known), max(known)])
        layout |= {"type": "log", "tickvals": ticks, "ticktext": [tick_text(value) for value in ticks]}
        del layout["rangemode"]
    return layout


def tick_text(value: float) -> str:
    """Return a number as an axis shows it.

    Examples
    --------
    >>> tick_text(131072.0), tick_text(0.125)
    ('131,072', '0.125')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def bars_layout(title: str, *, is_stacked: bool = False) -> dict[str, Any]:
    """Return the layout of horizontal bars, the first on top."""
    return {
        "barmode": "stack" if is_stacked else "group",
        "xaxis": axis(title, from_zero=True),
        "yaxis": {"autorange": "reversed", "type": "category"},
        "hovermode": "closest",
        "bargap": 0.25,
    }


def bars_height(num_bars: int) -> int:
    """Return the pixels that so many horizontal bars take."""
    return _FRAME_PIXELS + _ROW_PIXELS * max(num_bars, 2)


def numbers(values: Iterable[Any]) -> list[Any]:
    """Return numbers as JSON has them: six digits, null for what is not known.

    Examples
    --------
    >>> numbers([1, 0.123456789, float("nan"), None])
    [1, 0.123457, None, None]
    """
    return [_number(value) for value in values]


def escaped(text: Any) -> str:
    """Return text that plotly.js shows as it is: it reads some HTML in labels, and this has none."""
    return html.escape(str(text), quote=False)


def _log_ticks(ends: Sequence[float]) -> list[float]:
    """Return ticks at 1, 2 and 5 times the powers of ten that cover `ends`; at the powers alone where that is many."""
    if not ends or ends[0] <= 0:
        return []
    first, last = math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[-1]))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    return [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]


def _number(value: Any) -> Any:
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else float(f"{number:.{_DIGITS}g}")


def _trace(kind: str, name: str, **fields: Any) -> Trace:
    return {"type": kind, "name": escaped(name), "meta": {"series": name}, **fields}


def _band(name: str, x: Values, low: Values, high: Values, look: Look) -> Trace:
    places = [*numbers(x), *reversed(numbers(x))]
    band = _trace("scatter", name, x=places, y=[*numbers(low), *reversed(numbers(high))], mode="lines")
    band |= {"fill": "toself", "fillcolor": look.color, "opacity": 0.18, "line": {"width": 0}, "hoverinfo": "skip"}
    return band
