"""An out-of-sample comparison for people: counts and times of every cell, beside the errors in sample."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from kvsim.experiments.decode.report.compare import median_abs
from kvsim.experiments.decode.report.out_of_sample import OutOfSample
from kvsim.report.style import add_panels, legend_above, new_figure, policy_looks

_MS = 1e3
_MIB = 2**20


def out_of_sample_text(found: OutOfSample, in_sample: Mapping[str, Any] | None = None) -> str:
    """Return a row a cell, then the figures; `in_sample` has those of a comparison of the same cells, ``cells`` too."""
    known = {cell["cell"]: cell["tpot_error_frac"] for cell in in_sample["cells"]} if in_sample else {}
    lines = [
        *textwrap.wrap(
            f"out of sample: simulated on accesses recorded with {' and '.join(found.texts) or 'another text'} "
            f"({', '.join(found.accesses) or 'no trace named'})",
            120,
        ),
        "",
        f"{'policy':<12}{'context':>8}{'budget':>8}{'page':>5}{'batch':>6}{'hits % m / s':>17}{'points':>8}"
        f"{'MiB/token m / s':>18}{'ms/token m / s':>18}{'error':>8}" + (f"{'in sample':>11}" if known else ""),
    ]
    for cell in found.cells:
        budget = "-" if cell["budget_pages"] is None else str(cell["budget_pages"])
        hits, points = "-", "-"
        if cell["hit_error_points"] is not None:
            hits = f"{100 * cell['hit_measured_frac']:.1f} / {100 * cell['hit_simulated_frac']:.1f}"
            points = f"{cell['hit_error_points']:+z.1f}"
        moved = " / ".join(f"{cell[f'moved_bytes_per_token_{kind}'] / _MIB:.2f}" for kind in ("measured", "simulated"))
        times = " / ".join(f"{cell[f'tpot_{kind}_s'] * _MS:.1f}" for kind in ("measured", "simulated"))
        line = f"{cell['policy']:<12}{cell['context_tokens']:>8}{budget:>8}{cell['page_tokens']:>5}{cell['batch']:>6}"
        line += f"{hits:>17}{points:>8}{moved:>18}{times:>18}{100 * cell['tpot_error_frac']:>+z7.1f}%"
        if known:
            line += f"{_signed(known.get(cell['cell'])):>11}"
        lines.append(line)
    return "\n".join([*lines, "", *out_of_sample_lines(found, in_sample)])


def out_of_sample_lines(found: OutOfSample, in_sample: Mapping[str, Any] | None = None) -> list[str]:
    """Return the figures of an out-of-sample comparison, a line each, beside those in sample where given."""
    figures = found.figures
    beside = dict(in_sample or {})
    if in_sample:
        selecting = {cell["cell"] for cell in found.cells if cell["is_selecting"]}
        beside["selecting_median_error_frac"] = median_abs(
            [cell for cell in in_sample["cells"] if cell["cell"] in selecting], "tpot_error_frac"
        )

    def both(name: str) -> str:
        told = f" (in sample: {_percent(beside.get(name))})" if in_sample else ""
        return f"{_percent(figures[f'out_of_sample_{name}'])}{told}"

    return [
        f"hits, median error in the cells that select: {_points(figures['out_of_sample_hit_error_points'])}, worst "
        f"{_points(figures['out_of_sample_hit_worst_error_points'])}",
        f"misses, median error there: {_percent(figures['out_of_sample_misses_median_error_frac'])}; bytes moved: "
        f"{_percent(figures['out_of_sample_moved_median_error_frac'])}",
        f"time per token, median error there: {both('selecting_median_error_frac')}",
        f"time per token, median error of all cells: {both('tpot_median_error_frac')}; worst: "
        f"{both('tpot_worst_error_frac')}",
        f"what the cache adds, median error in stalling cells: {both('added_median_error_frac')}",
    ]


def out_of_sample_figure(found: OutOfSample) -> Figure:
    """Return simulated against measured out of sample: share of hits at the left, time per token at the right."""
    figure = new_figure(
        5.4,
        "Out of sample: simulated on other accesses than were measured",
        "The bands are 5 points of hits and 5% of the time to either side.",
    )
    left, right = add_panels(figure, 1, 2, across_inches=0.9)[0]
    looks = policy_looks(cell["policy"] for cell in found.cells)
    counted = [cell for cell in found.cells if cell["hit_error_points"] is not None]
    for name, look in looks.items():
        marks = {"color": look["color"], "marker": look["marker"], "linestyle": "", "markersize": 6}
        hits = [cell for cell in counted if cell["policy"] == name]
        left.plot(*[[100 * cell[f"hit_{kind}_frac"] for cell in hits] for kind in ("measured", "simulated")], **marks)
        times = [cell for cell in found.cells if cell["policy"] == name]
        right.plot(*[[cell[f"tpot_{kind}_s"] * _MS for cell in times] for kind in ("measured", "simulated")], **marks)
    left.plot([0, 100], [0, 100], color="0.5", linewidth=1, zorder=1)
    left.fill_between([0, 100], [-5, 95], [5, 105], color="0.92", zorder=0)
    left.set(title="hits", xlabel="measured (%)", ylabel="simulated (%)", xlim=(0, 102), ylim=(0, 102))
    ends_ms = [cell[f"tpot_{kind}_s"] * _MS for cell in found.cells for kind in ("measured", "simulated")]
    low, high = 0.9 * min(ends_ms), 1.1 * max(ends_ms)
    right.plot([low, high], [low, high], color="0.5", linewidth=1, zorder=1)
    right.fill_between([low, high], [0.95 * low, 0.95 * high], [1.05 * low, 1.05 * high], color="0.92", zorder=0)
    right.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    right.set(title="time per output token", xlabel="measured (ms)", ylabel="simulated (ms)")
    legend_above(
        figure,
        {
            name: Line2D([], [], color=look["color"], marker=look["marker"], linestyle="")
            for name, look in looks.items()
        },
    )
    return figure


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}%"


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} points"
