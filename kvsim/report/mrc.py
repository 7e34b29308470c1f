"""The table and the picture of `kvsim mrc`: misses of LRU over the budget."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from kvsim.caches import MissCurve
from kvsim.report.style import PALETTE, add_panels, new_figure
from kvsim.report.tables import aligned, percent


def mrc_text(curve: MissCurve, budgets: Sequence[int], keys: str) -> str:
    """Return a line a budget, and what cannot be avoided."""
    shares = curve.miss_frac
    head = f"{curve.num_accesses:,} accesses of {curve.num_keys:,} {keys}"
    rows = [("budget", "of all", "misses", "miss ratio", "")] + [
        (
            f"{budget:,}",
            percent(budget / curve.num_keys),
            f"{curve.misses[budget]:,}",
            f"{shares[budget]:.4f}",
            "<- knee" if budget == curve.knee else "",
        )
        for budget in budgets
    ]
    first = (
        f"first accesses are {shares[-1]:.4f} of all and miss at any budget; "
        "beyond the knee a slot avoids fewer misses than it does on average"
    )
    return "\n".join([head, *aligned(rows, left=(4,), rule=False), "", first])


def mrc_figure(curve: MissCurve, name: str, keys: str) -> Figure:
    """Return the curve over all budgets, with the knee and the misses that no budget avoids."""
    figure = new_figure(
        5.6,
        f"Misses of LRU at every budget: {name}",
        f"{curve.num_accesses:,} accesses of {curve.num_keys:,} {keys}. Exact: stack distances in one pass.",
    )
    ((axis,),) = add_panels(figure, 1, 1)
    shares = 100 * curve.miss_frac
    axis.step(range(1, shares.size), shares[1:], where="post", color=PALETTE[0], linewidth=2, label="LRU")
    axis.axhline(
        shares[-1], color=PALETTE[6], linestyle=":", linewidth=1.4, label="first accesses: no budget avoids them"
    )
    if curve.knee:
        label = f"knee: {curve.knee:,} slots, {shares[curve.knee]:.1f}% misses"
        axis.plot([curve.knee], [shares[curve.knee]], "o", color=PALETTE[1], markersize=9, label=label)
    axis.set_xscale("log")
    axis.set_ylim(0, max(1.0, 1.05 * shares[1:].max()))
    axis.set_xlabel("budget, slots")
    axis.set_ylabel("accesses that miss, %")
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, 0.08), fontsize=10)
    return figure
