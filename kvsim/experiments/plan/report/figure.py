"""The picture of a plan: memory, time and attention recall of each option."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from kvsim.experiments.plan.result import Option, Plan, State
from kvsim.report.style import PALETTE, add_panels, legend_above, new_figure, title_panel
from kvsim.units import format_bytes, format_seconds

COLORS: dict[State, str] = {
    "recommended": PALETTE[2],
    "Pareto front": PALETTE[0],
    "fits": PALETTE[1],
    "does not fit": "#bbbbbb",
}


def plan_figure(plan: Plan) -> Figure:
    """Return three panels with a row for each option: memory of one card, TPOT with its interval, attention recall."""
    request, options = plan.request, plan.options
    figure = new_figure(
        1.6 + 0.32 * len(options),
        f"{request.spec.name} on {request.card.title}: {request.batch} x {request.context_tokens:,} tokens",
        "Estimated from the card's data sheet, not measured. Lines: interval of the TPOT.",
    )
    memory, times, recall = add_panels(figure, 1, 3, sharey=True)[0]
    groups = [plan.state(option) for option in options]
    colors = [COLORS[group] for group in groups]
    places = range(len(options))
    memory.barh(places, [option.device_bytes / 2**30 for option in options], color=colors)
    memory.axvline(request.usable_bytes / 2**30, color="#333333", linestyle="--", linewidth=1.2)
    title_panel(memory, f"GiB of a card; dashed: {format_bytes(request.usable_bytes)} usable")
    _draw_times(times, options, colors)
    recall.barh(places, [100 * option.read_frac for option in options], color=colors)
    recall.set_xlim(0, 100)
    title_panel(recall, "attention recall, %")
    memory.set_yticks(places, [option.name for option in options], fontsize=9)
    memory.invert_yaxis()
    bars: dict[str, Any] = {
        group: memory.containers[0].patches[groups.index(group)] for group in COLORS if group in groups
    }
    legend_above(figure, bars)
    return figure


def _draw_times(axis: Any, options: Sequence[Option], colors: Sequence[str]) -> None:
    for place, (option, color) in enumerate(zip(options, colors, strict=True)):
        axis.plot(option.tpot_interval_s, (place, place), color=color, linewidth=2.5)
        axis.plot(option.tpot_s, place, marker="o", color=color)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_seconds(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    title_panel(axis, "TPOT")
