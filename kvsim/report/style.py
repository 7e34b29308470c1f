"""How every picture looks: size, colours that the colour-blind can tell apart, and a foot that says what to trust."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH_INCHES = 12.0
DOTS_PER_INCH = 100
_EDGE_INCHES, _LEGEND_INCHES, _BOTTOM_INCHES = 0.1, 0.3, 0.8

PALETTE = ("#0173B2", "#DE8F05", "#029E73", "#CC78BC", "#CA9161", "#56B4E9", "#949494", "#D55E00")
"""Eight colours after Okabe and Ito (2008), as seaborn's ``colorblind`` has them."""

_POLICY_COLORS = {"resident": "#555555", "stream": "#DE8F05", "lru": "#0173B2", "attention": "#029E73"}
_POLICY_COLORS |= {"baseline": "#555555", "reactive": "#0173B2", "predictive": "#029E73"}  # as an experiment names them
_MARKERS = "osD^vPX*<>phd8"
_LINES: tuple[Any, ...] = ("solid", "solid", "solid", (0, (4, 2.5)), (0, (1, 1.5)))

STYLE: dict[Any, Any] = {
    "font.size": 11.0,
    "axes.titlesize": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
}


def new_figure(height_inches: float, title: str, foot: str = "") -> Figure:
    """Return an empty figure 1200 pixels wide with a title line above and a small `foot` below.

    It belongs to no window and no global list: it is gone when nobody holds it.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DOTS_PER_INCH)
        FigureCanvasAgg(figure)
        figure.text(
            _EDGE_INCHES / WIDTH_INCHES, 1 - _EDGE_INCHES / height_inches, title, va="top", size=13, weight="bold"
        )
        figure.text(_EDGE_INCHES / WIDTH_INCHES, _EDGE_INCHES / height_inches, foot, size=9, color="#555555")
    return figure


def add_panels(
    figure: Figure,
    num_rows: int,
    num_columns: int,
    *,
    left_inches: float = 0.85,
    across_inches: float = 0.3,
    down_inches: float = 0.62,
    top_inches: float = 0.9,
    right_inches: float = 0.25,
    **shared: Any,
) -> list[list[Any]]:
    """Return a grid of axes, ``[num_rows][num_columns]``, below title and legend and above the foot.

    Placed by hand: matplotlib's own layouts take half a second a figure. `across_inches` and `down_inches` lie between.
    """
    height_inches = figure.get_figheight()
    width = (WIDTH_INCHES - left_inches - right_inches - across_inches * (num_columns - 1)) / num_columns
    height = (height_inches - top_inches - _BOTTOM_INCHES - down_inches * (num_rows - 1)) / num_rows
    place = {
        "left": left_inches / WIDTH_INCHES,
        "right": 1 - right_inches / WIDTH_INCHES,
        "top": 1 - top_inches / height_inches,
        "bottom": _BOTTOM_INCHES / height_inches,
        "wspace": across_inches / width,
        "hspace": down_inches / height,
    }
    with rc_context(STYLE):
        axes = figure.subplots(num_rows, num_columns, squeeze=False, gridspec_kw=place, **shared)
    return [list(row) for row in axes]


def policy_looks(policies: Iterable[Any]) -> dict[Any, dict[str, Any]]:
    """Return colour, marker and line of each policy, for ``axis.plot``; built-in ones keep their colour everywhere.

    Lines get thinner and more broken from one to the next: where two policies are equal, both can be seen.
    """
    names = list(dict.fromkeys(policies))
    spare = [color for color in PALETTE if color not in _POLICY_COLORS.values()]
    others = [name for name in names if name not in _POLICY_COLORS]
    colors = _POLICY_COLORS | {name: spare[number % len(spare)] for number, name in enumerate(others)}
    return {
        name: {
            "color": colors[name],
            "marker": _MARKERS[number % len(_MARKERS)],
            "linestyle": _LINES[number % len(_LINES)],
            "linewidth": max(3.0 - 0.4 * number, 1.4),
        }
        for number, name in enumerate(names)
    }


def legend_above(figure: Figure, handles: Mapping[str, Any], *, num_columns: int | None = None) -> None:
    """Put one legend for all panels between title and panels: in a line, or in rows of `num_columns`."""
    if not handles:
        return
    anchor = (0.0, 1 - _LEGEND_INCHES / figure.get_figheight())
    with rc_context(STYLE):
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="upper left",
            bbox_to_anchor=anchor,
            ncols=num_columns or len(handles),
            fontsize=10,
            columnspacing=1.4,
            handletextpad=0.5,
        )


def png(figure: Figure) -> bytes:
    """Return the picture as PNG."""
    stream = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(stream, format="png")
    return stream.getvalue()
