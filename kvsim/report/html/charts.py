"""Interactive figures as plain data: what plotly.js draws, without the Python package that wraps it.

A figure has views, of which a reader chooses one. Every trace belongs to a series (``meta.series``), which the legend of
the page shows and hides. All text that plotly.js would read as markup is escaped here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from kvsim.report.style import PALETTE, policy_looks

Trace: TypeAlias = dict[str, Any]
"""A trace of plotly.js."""

_DASHES = ("solid", "solid", "solid", "dash", "dot")
_DIGITS = 6
_LOG_FROM = 8.0
"""Amounts that span more than this factor stand on a logarithmic axis."""
_MOST_TICKS = 8
_ROW_PIXELS, _FRAME_PIXELS = 34, 110


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


def looks_of(names: Iterable[Any]) -> dict[str, Look]:
    """Return the look of each series: the colours that the pictures have, policies in their own."""
    ordered = list(dict.fromkeys(map(str, names)))
    colors = policy_looks(ordered)
    return {
        name: Look(color=colors[name]["color"], dash=_DASHES[place % len(_DASHES)])
        for place, name in enumerate(ordered)
    }


def palette_looks(names: Iterable[Any]) -> dict[str, Look]:
    """Return a colour of the palette for each name, in order."""
    ordered = dict.fromkeys(map(str, names))
    return {name: Look(color=PALETTE[place % len(PALETTE)]) for place, name in enumerate(ordered)}


def line(
    name: str,
    x: Sequence[float],
    y: Sequence[float],
    look: Look,
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    is_marked: bool = True,
) -> list[Trace]:
    """Return a line with marks, and a band from `low` to `high` where those are known."""
    traces = []
    if low is not None and high is not None:
        traces.append(_band(name, x, low, high, look))
    main = _trace("scatter", name, x=numbers(x), y=numbers(y), mode="lines+markers" if is_marked else "lines")
    main |= {"line": {"color": look.color, "dash": look.dash, "width": 2.5}, "marker": {"color": look.color, "size": 8}}
    return [*traces, main]


def dots(name: str, x: Sequence[float], y: Sequence[float], look: Look, *, texts: Sequence[str] = ()) -> Trace:
    """Return marks without a line; `texts` are shown over them."""
    trace = _trace("scatter", name, x=numbers(x), y=numbers(y), mode="markers")
    trace["marker"] = {"color": look.color, "size": 9, "opacity": 0.85}
    if texts:
        trace |= {"hovertext": [escaped(text) for text in texts], "hoverinfo": "text"}
    return trace


def rows_of_bars(
    name: str,
    labels: Sequence[str],
    values: Sequence[float | None],
    color: str,
    *,
    ends: Sequence[tuple[float, float] | None] | None = None,
) -> Trace:
    """Return horizontal bars, one for each label; `ends` are those of the values' intervals."""
    trace = _trace("bar", name, orientation="h", x=numbers(values), y=[escaped(label) for label in labels])
    trace["marker"] = {"color": color}
    if ends is not None:
        known = [(end or (value, value), value) for end, value in zip(ends, values, strict=True)]
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": numbers([None if value is None else high - value for (_, high), value in known]),
            "arrayminus": numbers([None if value is None else value - low for (low, _), value in known]),
            "thickness": 1.5,
        }
    return trace


def columns_of_bars(name: str, x: Sequence[float], values: Sequence[float], color: str) -> Trace:
    """Return upright bars, to be stacked."""
    return _trace("bar", name, x=numbers(x), y=numbers(values), marker={"color": color, "line": {"width": 0}})


def across(at: float, name: str, x: Sequence[float]) -> Trace:
    """Return a level line over the range of `x`."""
    ends = [min(x), max(x)]
    trace = _trace("scatter", name, x=numbers(ends), y=numbers([at, at]), mode="lines")
    return trace | {"line": {"color": "#555555", "dash": "dash", "width": 1.5}}


def axis(title: str, *, values: Iterable[float] = (), is_log: bool | None = None, from_zero: bool = False) -> Trace:
    """Return an axis; logarithmic where its `values` span a factor of 8, with a tick at each of a few.

    Examples
    --------
    >>> axis("batch", values=[1, 2, 16])["type"]
    'log'
    >>> axis("hits, %")["title"]["text"]
    'hits, %'
    """
    known = sorted({float(value) for value in values if math.isfinite(value)})
    if is_log is None:
        is_log = bool(known) and known[0] > 0 and known[-1] >= _LOG_FROM * known[0]
    layout: dict[str, Any] = {"title": {"text": escaped(title)}, "type": "log" if is_log else "linear"}
    if 1 < len(known) <= _MOST_TICKS:
        layout |= {"tickvals": known, "ticktext": [f"{value:,g}" if value < 1e6 else f"{value:,.0f}" for value in known]}
    if from_zero and not is_log:
        layout["rangemode"] = "tozero"
    return layout


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


def _number(value: Any) -> Any:
    if value is None:
        return None
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else float(f"{number:.{_DIGITS}g}")


def _trace(kind: str, name: str, **fields: Any) -> Trace:
    return {"type": kind, "name": escaped(name), "meta": {"series": name}, **fields}


def _band(name: str, x: Sequence[float], low: Sequence[float], high: Sequence[float], look: Look) -> Trace:
    places = [*numbers(x), *reversed(numbers(x))]
    band = _trace("scatter", name, x=places, y=[*numbers(low), *reversed(numbers(high))], mode="lines")
    band |= {"fill": "toself", "fillcolor": look.color, "opacity": 0.18, "line": {"width": 0}, "hoverinfo": "skip"}
    return band
