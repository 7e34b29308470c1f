"""How every picture looks: size, colours that the colour-blind can distinguish, and a foot that says what to trust."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

WIDTH_INCHES = 12.0
DOTS_PER_INCH = 100
_EDGE_INCHES, _TITLE_INCHES, _FOOT_INCHES, _LEGEND_INCHES, _LEGEND_LINE_INCHES = 0.1, 0.32, 0.24, 0.16, 0.2
_LETTER_INCHES = 0.083
_BESIDE_INCHES, _BELOW_INCHES = 0.85, 0.7
"""Room for the numbers and the label of an axis."""

PALETTE = ("#0173B2", "#DE8F05", "#029E73", "#CC78BC", "#CA9161", "#56B4E9", "#949494", "#D55E00")
"""Eight colours after Okabe and Ito (2008), as seaborn's ``colorblind`` has them."""

POLICY_COLORS = {"resident": "#555555", "stream": "#DE8F05", "lru": "#0173B2", "attention": "#029E73"}
POLICY_COLORS |= {"predictive": "#D55E00", "baseline": "#555555", "reactive": "#0173B2"}  # as experiments name them
"""Of policies, the same in every picture."""
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


def new_figure(height_inches: float, title: str, foot: str = "", *, is_plain_grid: bool = False) -> Figure:
    """Return an empty figure 1200 pixels wide with a title line above and a small `foot` below.

    It belongs to no window and no global list: it is gone when nobody holds it. What is drawn between title and foot is
    laid out when the figure is saved, so that no text runs into another.

    Parameters
    ----------
    is_plain_grid
        Whether panels have short labels and nothing beside them: they are then placed by fixed margins, which saves
        two thirds of the time of drawing a small picture.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DOTS_PER_INCH)
        FigureCanvasAgg(figure)
        left, line = _EDGE_INCHES / WIDTH_INCHES, _EDGE_INCHES / height_inches
        figure.text(left, 1 - line, title, va="top", size=13, weight="bold")
        figure.text(left, line, foot, size=9, color="#555555")
    figure.set_layout_engine("none" if is_plain_grid else "constrained")
    _leave_room(figure, _TITLE_INCHES + _LEGEND_INCHES / 2)
    return figure


def _leave_room(figure: Figure, above_inches: float) -> None:
    """Keep panels out of what stands above them, and of the foot."""
    height_inches = figure.get_figheight()
    foot, head = _FOOT_INCHES / height_inches, 1 - above_inches / height_inches
    if figure.get_layout_engine() is None:
        figure.subplots_adjust(top=head)
    else:
        figure.set_layout_engine(
            "constrained", rect=(0, foot, 1, head - foot), w_pad=0.08, h_pad=0.06, hspace=0.06, wspace=0.04
        )


def add_panels(figure: Figure, num_rows: int, num_columns: int, **shared: Any) -> list[list[Any]]:
    """Return a grid of axes, ``[num_rows][num_columns]``, below title and legend and above the foot."""
    with rc_context(STYLE):
        axes = figure.subplots(num_rows, num_columns, squeeze=False, **shared)
    if figure.get_layout_engine() is None:
        height_inches, between_inches = figure.get_figheight(), 0.25 if shared.get("sharex") else _BELOW_INCHES
        bottom, left, right = _FOOT_INCHES + _BELOW_INCHES, _BESIDE_INCHES, WIDTH_INCHES - 2 * _EDGE_INCHES
        figure.subplots_adjust(
            left=left / WIDTH_INCHES,
            right=right / WIDTH_INCHES,
            bottom=bottom / height_inches,
            wspace=_gap_frac(_BESIDE_INCHES, right - left, num_columns),
            hspace=_gap_frac(between_inches, figure.subplotpars.top * height_inches - bottom, num_rows),
        )
    return [list(row) for row in axes]


def add_panels_in_rows(figure: Figure, num_panels: int, num_columns: int) -> list[Any]:
    """Return `num_panels` axes in rows of so many; what is left of the last row stays empty."""
    panels = add_panels(figure, max(1, -(-num_panels // num_columns)), num_columns)
    axes = [axis for row in panels for axis in row]
    for axis in axes[max(1, num_panels) :]:
        axis.set_visible(False)
    return axes[: max(1, num_panels)]


def log_ticks(side: Any, subs: Sequence[float] = (1, 2, 5)) -> None:
    """Write the ticks of one logarithmic axis as plain numbers, at `subs` times the powers of ten and nowhere else."""
    side.set_major_locator(LogLocator(subs=subs))
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    side.set_minor_formatter(NullFormatter())


def _gap_frac(gap_inches: float, length_inches: float, num_panels: int) -> float:
    """Return a gap between panels as a share of a panel's length, as matplotlib takes it."""
    return gap_inches * num_panels / (length_inches - gap_inches * (num_panels - 1))


def title_panel(axis: Any, title: str, labels: Iterable[str] = ()) -> None:
    """Put a title above a panel, in as many lines as the panel's width asks for.

    Parameters
    ----------
    labels
        Tick labels to the left of the first panel, which make all panels narrower.
    """
    width_inches = WIDTH_INCHES - _LETTER_INCHES * max(map(len, labels), default=0)
    letters = int(0.88 * width_inches / axis.get_gridspec().ncols / _LETTER_INCHES)
    axis.set_title(textwrap.fill(title, letters), loc="left", fontsize=10.5)


def policy_looks(policies: Iterable[Any]) -> dict[Any, dict[str, Any]]:
    """Return colour, marker and line of each policy, for ``axis.plot``; built-in ones keep their colour everywhere.

    Lines get thinner and more broken from one to the next: where two policies are equal, both can be seen.
    """
    names = list(dict.fromkeys(policies))
    taken = {POLICY_COLORS[name] for name in names if name in POLICY_COLORS}
    reserved = [color for color in PALETTE if color in POLICY_COLORS.values() and color not in taken]
    spare = [color for color in PALETTE if color not in POLICY_COLORS.values()] + reserved
    others = [name for name in names if name not in POLICY_COLORS]
    colors = POLICY_COLORS | {name: spare[number % len(spare)] for number, name in enumerate(others)}
    return {
        name: {
            "color": colors[name],
            "marker": _MARKERS[number % len(_MARKERS)],
            "linestyle": _LINES[number % len(_LINES)],
            "linewidth": max(3.0 - 0.4 * number, 1.4),
        }
        for number, name in enumerate(names)
    }


def legend_above(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Put one legend for all panels between title and panels, in as many rows as it needs."""
    if not handles:
        return
    num_columns = next(number for number in range(len(handles), 0, -1) if number == 1 or _fits(list(handles), number))
    with rc_context(STYLE):
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="upper left",
            bbox_to_anchor=(0.0, 1 - _TITLE_INCHES / figure.get_figheight()),
            ncols=num_columns,
            fontsize=10,
            columnspacing=1.4,
            handletextpad=0.5,
        )
    num_rows = -(-len(handles) // num_columns)
    _leave_room(figure, _TITLE_INCHES + _LEGEND_INCHES + num_rows * _LEGEND_LINE_INCHES)


def _fits(names: list[str], num_columns: int) -> bool:
    """Return whether a legend of so many columns, filled one after another, is as wide as the picture or less."""
    columns = np.array_split(np.array([len(name) for name in names]), num_columns)
    return bool(sum(column.max() + 7 for column in columns) * _LETTER_INCHES <= WIDTH_INCHES)


def png(figure: Figure) -> bytes:
    """Return the picture as PNG."""
    stream = io.BytesIO()
    with rc_context(STYLE):
        canvas: Any = FigureCanvasAgg(figure)
        canvas.print_png(stream)  # `savefig` draws twice, the first time for the layout alone
    return stream.getvalue()
