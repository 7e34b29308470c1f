"""How the highest rate is shown: a line for people, a dictionary for programs, and a picture of what was tried."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from kvsim.experiments.serving.capacity import Capacity
from kvsim.experiments.serving.report.figures import mark_plainly
from kvsim.report.style import PALETTE, add_panels, legend_above, new_figure

RATE_UNITS = {"arrivals.rate_hz": "sessions/s", "arrivals.speed": "times the trace's speed", "arrivals.users": "users"}


def capacity_contents(capacity: Capacity, met_frac: float) -> dict[str, Any]:
    """Return what a program reads."""
    return {
        "field": capacity.field,
        "met_frac": met_frac,
        "rate": capacity.mean,
        "rate_interval": capacity.interval,
        "rates": capacity.rates,
        "rate_by_costs": (capacity.cost_low, capacity.cost_high),
        "points": [{"rate": point.rate, "met_frac": point.met_frac, "seed": point.seed} for point in capacity.points],
    }


def capacity_text(capacity: Capacity, met_frac: float) -> str:
    """Return the highest rate and how sure it is."""
    unit, seeds = RATE_UNITS[capacity.field], len(capacity.rates)
    lines = [f"{capacity.mean:.3g} {unit}: the highest rate at which {100 * met_frac:g}% of the requests meet the SLO"]
    if seeds > 1:
        low, high = capacity.interval
        lines.append(
            f"  traffic: {low:.3g} to {high:.3g}, a 90% interval of the mean over {seeds} seeds "
            f"({min(capacity.rates):.3g} to {max(capacity.rates):.3g} each)"
        )
    lines.append(
        f"  costs: {capacity.cost_low:.3g} to {capacity.cost_high:.3g}, if every step is as long, or as short, as the "
        "profile's costs may be"
    )
    return "\n".join(lines)


def capacity_figure(capacity: Capacity, scenario: str, met_frac: float) -> Figure:
    """Return the share that met the SLO at every rate that was tried, a line a seed, and the rate that was found."""
    figure = new_figure(4.6, f"{scenario}: the highest rate", "A line for each seed; grey: what costs leave open.")
    axis = add_panels(figure, 1, 1)[0][0]
    handles: dict[str, Any] = {}
    for place, seed in enumerate(dict.fromkeys(point.seed for point in capacity.points)):
        own = sorted((point.rate, point.met_frac) for point in capacity.points if point.seed == seed)
        handles[f"seed {seed}"] = axis.plot(
            *zip(*own, strict=True), color=PALETTE[place % len(PALETTE)], marker="o", markersize=3, linewidth=1.2
        )[0]
    axis.axvspan(capacity.cost_low, capacity.cost_high, color="0.9", zorder=0)
    handles["found"] = axis.axvline(capacity.mean, color="black", linewidth=1.5)
    axis.axhline(met_frac, color="0.5", linestyle="--", linewidth=1)
    axis.set(
        xscale="log", ylim=(0, 1.02), xlabel=f"rate ({RATE_UNITS[capacity.field]})", ylabel="share meeting the SLO"
    )
    mark_plainly(axis.xaxis, *axis.get_xlim())
    legend_above(figure, handles)
    return figure
