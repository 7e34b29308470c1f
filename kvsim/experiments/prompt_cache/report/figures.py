"""The picture of a prompt cache: time to first token over what prompts share, or over the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from kvsim.experiments.prompt_cache.cell import PromptsCell
from kvsim.experiments.prompt_cache.report.break_even import GROUP, groups_of
from kvsim.experiments.prompt_cache.report.tables import rate_text
from kvsim.report.results import RunResult
from kvsim.report.style import PALETTE, add_panels, legend_above, new_figure, png


def figures(result: RunResult) -> dict[str, bytes]:
    """Return the time to first token over what prompts share, or over the budget."""
    return {"prompt_cache.png": png(prompt_figure(result.summary))}


def prompt_figure(summary: Mapping[str, Any], simulated: Mapping[str, Any] | None = None) -> Figure:
    """Return the time to first token over the tokens shared, or over the budget where those do not vary.

    Parameters
    ----------
    simulated
        Of the same cells: drawn as lines, with `summary`'s as marks.
    """
    lengths = {cell["shared_tokens"] for cell in summary["cells"]}
    if len(lengths) > 1 and None not in lengths:
        return _over_length(summary, simulated)
    return _over_budget(summary, simulated)


def _over_length(summary: Mapping[str, Any], simulated: Mapping[str, Any] | None) -> Figure:
    foot = "Lines down: from there on loading beats computing"
    foot += ", dotted measured, dashed simulated. " if simulated is not None else ". "
    foot += _how(summary, simulated)
    figure = new_figure(5.0, f"{summary['scenario']}: time to first token of prompts whose beginning is kept", foot)
    left, right = add_panels(figure, 1, 2)[0]
    handles: dict[str, Any] = {}
    for kind, cells in _kinds(summary, simulated):
        _line(left, handles, "no cache", cells, "ttft_hit_full_s", kind, color="0.35")
        for place, (key, group) in enumerate(groups_of(cells).items()):
            _line(left, handles, group_name(key), group, "ttft_hit_s", kind, **_looks(place))
            _line(right, handles, group_name(key), group, "speedup", kind, **_looks(place))
    _mark_break_evens((left, right), summary, ":")
    if simulated is not None:
        _mark_break_evens((left, right), simulated, "--")
    right.axhline(1, color="0.35", linewidth=1)
    left.set(ylabel="time to first token of a hit (s)")
    right.set(ylabel="times as fast as without the cache")
    ticks = sorted({cell["shared_tokens"] for cell in summary["cells"]})
    for axis in filter(_has_points, (left, right)):
        axis.set(xscale="log", yscale="log", xlabel="tokens shared")
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
    legend_above(figure, handles)
    return figure


def _has_points(axis: Any) -> bool:
    """Return whether a panel has something to scale by; else say why it has not."""
    if any(len(line.get_xdata()) and line.get_transform() == axis.transData for line in axis.lines):
        return True
    axis.text(0.5, 0.5, "times are not known", ha="center", va="center", transform=axis.transAxes)
    return False


def _mark_break_evens(axes: Sequence[Any], summary: Mapping[str, Any], linestyle: str) -> None:
    """Draw a line down each panel where loading begins to beat computing."""
    for place, key in enumerate(groups_of(summary["cells"])):
        for entry in summary["break_evens"]:
            if tuple(entry[field] for field in GROUP) == key and entry["from_tokens"] is not None:
                for axis in axes:
                    color = PALETTE[place % len(PALETTE)]
                    axis.axvline(entry["from_tokens"], color=color, linestyle=linestyle, linewidth=1.5)


def _over_budget(summary: Mapping[str, Any], simulated: Mapping[str, Any] | None) -> Figure:
    figure = new_figure(5.0, f"{summary['scenario']}: what a prompt cache saves", _how(summary, simulated))
    left, right = add_panels(figure, 1, 2)[0]
    handles: dict[str, Any] = {}
    for kind, cells in _kinds(summary, simulated):
        groups: dict[tuple[Any, ...], list[PromptsCell]] = {}
        for cell in cells:
            groups.setdefault((cell["tier"], cell["policy"], None, cell["link_bytes_per_s"]), []).append(cell)
        for place, (key, group) in enumerate(groups.items()):
            _line(left, handles, group_name(key), group, "reused_frac", kind, over="budget_bytes", **_looks(place))
            _line(right, handles, group_name(key), group, "ttft_mean_s", kind, over="budget_bytes", **_looks(place))
        _line(right, handles, "no cache", cells, "ttft_full_mean_s", kind, color="0.35", over="budget_bytes")
    left.set(ylabel="share of tokens reused", ylim=(0, 1))
    right.set(ylabel="time to first token, mean (s)")
    right.set_ylim(bottom=0)
    for axis in filter(_has_points, (left, right)):
        axis.set(xscale="log", xlabel="budget (MiB)")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:,g}")
        axis.xaxis.set_minor_formatter("")
    legend_above(figure, handles)
    return figure


def _line(
    axis: Any,
    handles: dict[str, Any],
    name: str,
    cells: Sequence[Mapping[str, Any]],
    figure: str,
    kind: str,
    *,
    over: str = "shared_tokens",
    **looks: Any,
) -> None:
    """Draw one figure of cells: a line, marks, or both; cells at one place, as those without a cache, by their mean."""
    unit = 2**20 if over.endswith("_bytes") else 1
    places: dict[float, list[float]] = {}
    for cell in cells:
        if cell[figure] is not None:
            places.setdefault((cell[over] if cell[over] is not None else cell["kept_bytes"]) / unit, []).append(
                cell[figure]
            )
    if not places:  # a profile without these times
        return
    ordered = sorted(places)
    looks = {"linewidth": 2} | looks | ({} if kind == "line" else {"marker": "o"})
    looks |= {"linestyle": "none"} if kind == "marks" else {}
    means = [sum(places[place]) / len(places[place]) for place in ordered]
    (drawn,) = axis.plot(ordered, means, **looks)
    handles.setdefault(name, drawn)


def _looks(place: int) -> dict[str, Any]:
    """Return the looks of the group at a place: lines get thinner and more broken, so that equal ones can be seen."""
    dashes: tuple[Any, ...] = ("solid", "solid", "solid", (0, (4, 2.5)), (0, (2, 2)), (0, (1, 1.5)))
    return {
        "color": PALETTE[place % len(PALETTE)],
        "linewidth": max(3.0 - 0.4 * place, 1.4),
        "linestyle": dashes[place % len(dashes)],
        "markersize": max(9.0 - place, 4.0),
    }


def _kinds(summary: Mapping[str, Any], simulated: Mapping[str, Any] | None) -> list[tuple[str, Sequence[PromptsCell]]]:
    if simulated is None:
        return [("both", summary["cells"])]
    return [("line", simulated["cells"]), ("marks", summary["cells"])]


def _how(summary: Mapping[str, Any], simulated: Mapping[str, Any] | None) -> str:
    if simulated is not None:
        return "Lines: simulated. Marks: measured."
    return "Measured." if summary.get("is_measured") else "Simulated."


def group_name(key: tuple[Any, ...]) -> str:
    """Return what a line is called, by tier, policy and link."""
    tier, policy, link = key[0], key[1], key[3]
    return f"{tier}, {policy}" if link is None else f"{tier}, {policy}, link {rate_text(link)}"
