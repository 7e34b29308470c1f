"""A comparison for people: a row a cell, the error by part of the step, and the cells about the diagonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kvsim.experiments.decode.report.compare import PARTS, Comparison
from kvsim.report.style import add_panels, legend_above, new_figure, policy_looks

_MS = 1e3


def cells_csv(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return every field of every cell as CSV."""
    return str(pd.DataFrame(cells).to_csv(index=False))


def compare_text(found: Comparison) -> str:
    """Return the cells as a printed table, then the median error of each part of a step, in milliseconds."""
    lines = [
        f"{'policy':<12}{'context':>8}{'budget':>8}{'page':>5}{'batch':>6}{'measured ms':>24}{'simulated ms':>24}"
        f"{'error':>8}{'stall m / s':>16}"
    ]
    for cell in found.cells:
        budget = "-" if cell["budget_pages"] is None else str(cell["budget_pages"])
        measured = _range_ms(cell["tpot_measured_s"], cell["tpot_measured_low_s"], cell["tpot_measured_high_s"])
        simulated = _range_ms(cell["tpot_simulated_s"], cell["tpot_simulated_low_s"], cell["tpot_simulated_high_s"])
        stalls = f"{_percent(cell['stall_measured_frac'])} / {_percent(cell['stall_simulated_frac'])}"
        lines.append(
            f"{cell['policy']:<12}{cell['context_tokens']:>8}{budget:>8}{cell['page_tokens']:>5}{cell['batch']:>6}"
            f"{measured:>24}{simulated:>24}{100 * cell['tpot_error_frac']:>+7.1f}%{stalls:>16}"
        )
    lines += ["", "simulated - measured by part of a step, of the measured time per token (median, worst):"]
    for part in PARTS:
        name = part[:-2]
        errors = [
            (cell[f"{name}_simulated_s"] - cell[f"{name}_measured_s"]) / cell["tpot_measured_s"] for cell in found.cells
        ]
        worst = max(errors, key=abs)
        lines.append(f"  {name:<18}{100 * float(np.median(errors)):>+7.2f}%{100 * worst:>+8.2f}%")
    return "\n".join([*lines, ""])


def _range_ms(middle_s: float, low_s: float, high_s: float) -> str:
    return f"{middle_s * _MS:.1f} ({low_s * _MS:.1f} .. {high_s * _MS:.1f})"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.0f}%"


def compare_figure(found: Comparison) -> Figure:
    """Return measured against simulated time per token, a panel for each policy, both with their intervals."""
    names = list(dict.fromkeys(cell["policy"] for cell in found.cells))
    contexts = sorted({cell["context_tokens"] for cell in found.cells})
    markers = dict(zip(contexts, "osD^vPX*" * len(contexts), strict=False))
    figure = new_figure(4.6, "Time per output token: simulated against measured", "The band is 5% to either side.")
    axes = add_panels(figure, 1, len(names), across_inches=0.7)[0]
    looks = policy_looks(names)
    handles = {
        f"{context:,} tokens": Line2D([], [], color="#555555", marker=markers[context], linestyle="")
        for context in contexts
    }
    for axis, name in zip(axes, names, strict=True):
        cells = [cell for cell in found.cells if cell["policy"] == name]
        ends_ms = [cell[f"tpot_{kind}_s"] * _MS for cell in cells for kind in ("measured", "simulated")]
        low, high = 0.9 * min(ends_ms), 1.1 * max(ends_ms)
        axis.plot([low, high], [low, high], color="0.5", linewidth=1, zorder=1)
        axis.fill_between([low, high], [0.95 * low, 0.95 * high], [1.05 * low, 1.05 * high], color="0.92", zorder=0)
        for context in contexts:
            chosen = [cell for cell in cells if cell["context_tokens"] == context]
            if chosen:
                axis.errorbar(
                    [cell["tpot_measured_s"] * _MS for cell in chosen],
                    [cell["tpot_simulated_s"] * _MS for cell in chosen],
                    xerr=_arms(chosen, "measured"),
                    yerr=_arms(chosen, "simulated"),
                    fmt=markers[context],
                    color=looks[name]["color"],
                    markersize=6,
                    elinewidth=1,
                )
        axis.set(title=name, xlabel="measured (ms a token)", xlim=(low, high), ylim=(low, high))
    axes[0].set_ylabel("simulated (ms a token)")
    legend_above(figure, handles)
    return figure


def _arms(cells: list[dict[str, Any]], kind: str) -> list[list[float]]:
    middle = [cell[f"tpot_{kind}_s"] for cell in cells]
    low = [max(at - cell[f"tpot_{kind}_low_s"], 0.0) * _MS for at, cell in zip(middle, cells, strict=True)]
    high = [max(cell[f"tpot_{kind}_high_s"] - at, 0.0) * _MS for at, cell in zip(middle, cells, strict=True)]
    return [low, high]
