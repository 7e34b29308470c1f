"""Simulated beside measured for caches other than that of decode: counts that must be equal, figures with an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from kvsim.errors import ResultError
from kvsim.report.results import RunResult
from kvsim.report.style import PALETTE, add_panels, legend_above, new_figure
from kvsim.report.tables import Column
from kvsim.units import format_bytes, format_seconds

_TICKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The cells of two results side by side."""

    scenario: str
    keys: tuple[str, ...]
    """Fields that say which cell it is."""
    figures: tuple[str, ...]
    """Names of the figures compared with an error."""
    cells: list[dict[str, Any]]
    """For each figure ``<name>_simulated``, ``<name>_measured`` and ``<name>_error_frac``; None where one has none."""
    unequal: tuple[str, ...]
    """Counts that differ, as lines: none where the simulator counts what the engine does."""

    def summary(self) -> dict[str, Any]:
        """Return what a program reads: whether counts are equal, and the errors of each figure over the cells."""
        found: dict[str, Any] = {"cells": self.cells, "counts_equal": not self.unequal}
        for name in self.figures:
            errors = np.array(
                [cell[f"{name}_error_frac"] for cell in self.cells if cell[f"{name}_error_frac"] is not None]
            )
            base = name.removesuffix("_s").removesuffix("_bytes")
            found[f"{base}_median_error_frac"] = float(np.median(np.abs(errors))) if errors.size else None
            found[f"{base}_worst_error_frac"] = float(errors[np.argmax(np.abs(errors))]) if errors.size else None
        if self.unequal:
            found["divergence"] = self.unequal[0]
        return found


def pair_cells(
    simulated: RunResult, measured: RunResult, *, keys: Sequence[str], figures: Sequence[str], counts: Sequence[str]
) -> Pairs:
    """Pair the cells of a simulated and a measured result of one scenario, in their order.

    Parameters
    ----------
    figures
        Compared with an error, ``simulated / measured - 1``.
    counts
        Must be equal.

    Raises
    ------
    ResultError
        If the two are not of one scenario, or not one of each.
    """
    check_pair(simulated, measured)
    cells, unequal = [], []
    left, right = simulated.summary["cells"], measured.summary["cells"]
    for number, (sim, real) in enumerate(zip(left, right, strict=True)):
        cell: dict[str, Any] = {"cell": number} | {key: real[key] for key in keys}
        for name in figures:
            cell |= {f"{name}_simulated": sim[name], f"{name}_measured": real[name]}
            cell[f"{name}_error_frac"] = sim[name] / real[name] - 1 if sim[name] is not None and real[name] else None
        for name in counts:
            cell |= {f"{name}_simulated": sim[name], f"{name}_measured": real[name]}
            if sim[name] != real[name]:
                unequal.append(f"cell {number}: {name} is {sim[name]} simulated, {real[name]} measured")
        cells.append(cell)
    return Pairs(
        scenario=str(measured.summary["scenario"]),
        keys=tuple(keys),
        figures=tuple(figures),
        cells=cells,
        unequal=tuple(unequal),
    )


def check_pair(simulated: RunResult, measured: RunResult) -> None:
    """Refuse two results that are not one simulated, one measured, of one scenario.

    Raises
    ------
    ResultError
        Saying which, and what would be right.
    """
    if not measured.summary.get("is_measured"):
        raise ResultError("the second result was simulated; give one that `kvsim measure` wrote")
    if simulated.summary.get("is_measured"):
        raise ResultError("the first result was measured; give one that `kvsim run` wrote")
    if simulated.summary["scenario_hash"] != measured.summary["scenario_hash"]:
        raise ResultError(
            f"the results are of different scenarios: {simulated.summary['scenario']} "
            f"({simulated.summary['scenario_hash']}) and {measured.summary['scenario']} "
            f"({measured.summary['scenario_hash']}); simulate again with the measured one's scenario and options"
        )


def cells_text(cells: Sequence[Mapping[str, Any]], columns: Mapping[str, Column]) -> str:
    """Return cells as a printed table, a row each, under titles of two lines; ``-`` where a figure does not apply."""
    present = [name for name in columns if any(name in cell for cell in cells)]
    titles = [columns[name].title.partition("/") for name in present]
    body = [[_shown(columns[name], cell.get(name)) for name in present] for cell in cells]
    table = [[upper for upper, _, _ in titles], [lower for _, _, lower in titles], *body]
    widths = [max(len(row[place]) for row in table) for place in range(len(present))]
    lines = ["  ".join(text.rjust(size) for text, size in zip(row, widths, strict=True)).rstrip() for row in table]
    lines.insert(2, "  ".join("-" * size for size in widths))
    return "\n".join(lines)


def pairs_text(pairs: Pairs, columns: Mapping[str, Column]) -> str:
    """Return the pairs as a printed table with the error of every figure, then the medians and whether counts agree."""
    shown: dict[str, Column] = {key: columns[key] for key in pairs.keys}
    for name in pairs.figures:
        title = columns[name].title.replace("/", " ").strip()
        shown |= {
            f"{name}_measured": Column(title=f"{title}/measured", text=columns[name].text),
            f"{name}_simulated": Column(title=f"{title}/simulated", text=columns[name].text),
            f"{name}_error_frac": Column(title="/error", text=lambda value: f"{100 * value:+.1f}%"),
        }
    found = pairs.summary()
    lines = [cells_text(pairs.cells, shown), "", f"counts equal: {'NO' if pairs.unequal else 'yes'}"]
    lines += [f"  {line}" for line in pairs.unequal[:5]]
    for name in pairs.figures:
        base = name.removesuffix("_s").removesuffix("_bytes")
        median, worst = found[f"{base}_median_error_frac"], found[f"{base}_worst_error_frac"]
        if median is not None:
            title = columns[name].title.replace("/", " ").strip()
            lines.append(f"{title}: median error {100 * median:.1f}%, worst {100 * worst:+.1f}%")
    return "\n".join(lines)


def pairs_csv(pairs: Pairs) -> str:
    """Return every field of every pair as CSV."""
    return str(pd.DataFrame(pairs.cells).to_csv(index=False))


def pairs_figure(pairs: Pairs, *, by: str) -> Figure:
    """Return simulated against measured about the diagonal, a panel a figure, coloured by the field `by`."""
    shown = [name for name in pairs.figures if any(_has(cell, name) for cell in pairs.cells)]
    groups = list(dict.fromkeys(cell[by] for cell in pairs.cells))
    figure = new_figure(4.8, f"{pairs.scenario}: simulated against measured", "The band is 10% to either side.")
    axes = add_panels(figure, 1, len(shown), across_inches=0.9)[0]
    handles: dict[str, Any] = {}
    for axis, name in zip(axes, shown, strict=True):
        ends = [
            cell[f"{name}_{kind}"] for cell in pairs.cells if _has(cell, name) for kind in ("measured", "simulated")
        ]
        low, high = 0.8 * min(ends), 1.25 * max(ends)
        axis.plot([low, high], [low, high], color="0.5", linewidth=1, zorder=1)
        axis.fill_between([low, high], [0.9 * low, 0.9 * high], [1.1 * low, 1.1 * high], color="0.92", zorder=0)
        for place, group in enumerate(groups):
            chosen = [cell for cell in pairs.cells if cell[by] == group and _has(cell, name)]
            handles[f"{by.rpartition('.')[2]} {group}"] = axis.scatter(
                [cell[f"{name}_measured"] for cell in chosen],
                [cell[f"{name}_simulated"] for cell in chosen],
                color=PALETTE[place % len(PALETTE)],
                marker="osD^vPX*"[place % 8],
                zorder=2,
            )
        title = name.removesuffix("_s").removesuffix("_bytes").replace("_", " ")
        axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), title=title, xlabel="measured")
        for side in (axis.xaxis, axis.yaxis):
            _mark(side, name, low, high)
    axes[0].set_ylabel("simulated")
    legend_above(figure, handles)
    return figure


def _mark(side: Any, name: str, low: float, high: float) -> None:
    """Put a few ticks that people write on a logarithmic axis."""
    if name.endswith("_bytes"):
        side.set_major_locator(LogLocator(base=2 ** max(1, round(np.log2(high / low) / _TICKS))))
    else:
        decades = np.log10(high / low)
        side.set_major_locator(LogLocator(subs=(1,) if decades > 3 else (1, 3) if decades > 1.5 else (1, 2, 5)))
    show = format_seconds if name.endswith("_s") else format_bytes if name.endswith("_bytes") else "{:g}".format
    side.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    side.set_minor_formatter(NullFormatter())


def _has(cell: Mapping[str, Any], name: str) -> bool:
    return bool(cell[f"{name}_measured"]) and bool(cell[f"{name}_simulated"])


def _shown(column: Column, value: Any) -> str:
    return "-" if value is None else column.text(value)
