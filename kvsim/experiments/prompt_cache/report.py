"""How results of a prompt cache are told: columns, the break-even of loading and computing, a picture, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from kvsim.report.pairs import cells_text
from kvsim.report.style import PALETTE, add_panels, legend_above, new_figure
from kvsim.report.tables import Column
from kvsim.units import format_bytes, format_seconds

_GROUP = ("tier", "policy", "budget_bytes", "link_bytes_per_s", "least_tokens")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _rate(value: float) -> str:
    return f"{value / 1e9:.3g} GB/s"


COLUMNS: dict[str, Column] = {
    "tier": Column(title="/tier", text=str),
    "policy": Column(title="/policy", text=str),
    "shared_tokens": Column(title="tokens/shared", text=lambda value: f"{value:,}"),
    "budget_bytes": Column(title="/budget", text=format_bytes),
    "link_bytes_per_s": Column(title="link if not/the profile's", text=_rate),
    "hits": Column(title="prompts/hit", text=lambda value: f"{value:,}"),
    "reused_frac": Column(title="tokens/reused", text=_percent),
    "evicted": Column(title="given/up", text=lambda value: f"{value:,}"),
    "demoted": Column(title="moved/to host", text=lambda value: f"{value:,}"),
    "ttft_mean_s": Column(title="TTFT/all", text=format_seconds),
    "ttft_hit_s": Column(title="TTFT/hits", text=format_seconds),
    "ttft_hit_full_s": Column(title="the same/no cache", text=format_seconds),
    "speedup": Column(title="/speedup", text=lambda value: f"{value:.2f}x"),
    "restore_hit_s": Column(title="of it/loading", text=format_seconds),
    "keep_mean_s": Column(title="keeping/a prompt", text=format_seconds),
    "least_link_bytes_per_s": Column(title="pays down/to a link of", text=_rate),
}

LEGEND = (
    "hits: prompts that reused a token or more; their time to first token with the cache and without. Keeping a prompt "
    "comes\nafter its first token. Over a link slower than the last column says, loading what was reused takes longer "
    "than\ncomputing it."
)


def crossing(lengths: Sequence[float], gains_s: Sequence[float]) -> tuple[str, float | None]:
    """Return from which length on loading beats computing: at all lengths, at none, or from a length in between.

    The length is interpolated between the last one at which loading does not gain and the next.

    Examples
    --------
    >>> crossing([8, 16, 32], [-2.0, 2.0, 5.0])
    ('from', 12.0)
    >>> crossing([8, 16], [1.0, 2.0]), crossing([8, 16], [1.0, -2.0])
    (('always', None), ('never', None))
    """
    losing = [place for place, gain_s in enumerate(gains_s) if gain_s <= 0]
    if not losing:
        return "always", None
    last = losing[-1]
    if last == len(gains_s) - 1:
        return "never", None
    share = -gains_s[last] / (gains_s[last + 1] - gains_s[last])
    return "from", lengths[last] + share * (lengths[last + 1] - lengths[last])


def break_evens(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the break-even of every group of cells that differ in the tokens shared alone, and of each repeat."""
    found = []
    for key, group in _groups(cells).items():
        own = sorted((cell for cell in group if cell["ttft_hit_s"] is not None), key=lambda cell: cell["shared_tokens"])
        lengths = [cell["shared_tokens"] for cell in own]
        if len(set(lengths)) < 2 or len(set(lengths)) < len(lengths):
            continue
        gains_s = [cell["ttft_hit_full_s"] - cell["ttft_hit_s"] for cell in own]
        verdict, from_tokens = crossing(lengths, gains_s)
        repeats = zip(*(cell.get("gain_repeats_s", ()) for cell in own), strict=True)
        each = [crossing(lengths, gains) for gains in repeats]
        entry = dict(zip(_GROUP, key, strict=True))
        entry |= {"lengths": lengths, "gains_s": gains_s, "verdict": verdict, "from_tokens": from_tokens}
        entry["repeats"] = [{"verdict": told, "from_tokens": tokens} for told, tokens in each]
        if all("busy_gain_s" in cell for cell in own):
            entry["busy_verdict"], entry["busy_from_tokens"] = crossing(lengths, [cell["busy_gain_s"] for cell in own])
        found.append(entry)
    return found


def break_evens_beside(
    simulated: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the break-evens of the same groups side by side; the error where both cross between two lengths."""
    known = {tuple(entry[name] for name in _GROUP): entry for entry in simulated}
    found = []
    for real in measured:
        sim = known.get(tuple(real[name] for name in _GROUP))
        if sim is None:
            continue
        both, busy = (sim["from_tokens"], real["from_tokens"]), real.get("busy_from_tokens")
        found.append(
            dict(real)
            | {"simulated_verdict": sim["verdict"], "simulated_from_tokens": sim["from_tokens"]}
            | {"error_frac": both[0] / both[1] - 1 if both[0] is not None and both[1] else None}
            | {"agrees": sim["verdict"] == real["verdict"]}
            | {"busy_error_frac": both[0] / busy - 1 if both[0] is not None and busy else None}
        )
    return found


def break_evens_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return break-evens as a table, simulated and measured ones beside each other where both are known."""
    columns: dict[str, Column] = {
        "tier": COLUMNS["tier"],
        "policy": COLUMNS["policy"],
        "link_bytes_per_s": COLUMNS["link_bytes_per_s"],
        "told": Column(title="loading beats computing/from", text=str),
        "repeats": Column(title="/repeats", text=str),
        "simulated": Column(title="/simulated", text=str),
        "error_frac": Column(title="/error", text=lambda value: f"{100 * value:+.1f}%"),
        "busy": Column(title="by processor/time", text=str),
        "busy_error_frac": Column(title="/error", text=lambda value: f"{100 * value:+.1f}%"),
    }
    rows = []
    for entry in entries:
        row = {name: entry[name] for name in ("tier", "policy", "link_bytes_per_s")}
        row["told"] = _told(entry["verdict"], entry["from_tokens"], entry["lengths"])
        if "busy_verdict" in entry:
            row["busy"] = _told(entry["busy_verdict"], entry["busy_from_tokens"], entry["lengths"])
        crossed = [found["from_tokens"] for found in entry["repeats"] if found["from_tokens"] is not None]
        if crossed:
            row["repeats"] = f"{min(crossed):.0f} to {max(crossed):.0f}"
        if "simulated_verdict" in entry:
            row["simulated"] = _told(entry["simulated_verdict"], entry["simulated_from_tokens"], entry["lengths"])
            row["error_frac"], row["busy_error_frac"] = entry["error_frac"], entry["busy_error_frac"]
        rows.append(row)
    return cells_text(rows, columns)


def _told(verdict: str, from_tokens: float | None, lengths: Sequence[int]) -> str:
    if verdict == "from":
        return f"{from_tokens:.0f} tokens"
    return f"{lengths[0]} tokens, the fewest tried" if verdict == "always" else f"no length up to {lengths[-1]:,}"


def verdict_of(
    cells: Sequence[Mapping[str, Any]],
    crossings: Sequence[Mapping[str, Any]],
    *,
    is_emulated: bool,
    stands_in: str | None,
) -> list[str]:
    """Return what the cells say in words, and what their figures leave out."""
    lines = []
    for entry in crossings:
        link = "" if entry["link_bytes_per_s"] is None else f" over a link of {_rate(entry['link_bytes_per_s'])}"
        told = _told(entry["verdict"], entry["from_tokens"], entry["lengths"])
        beats = "loading beats computing at" if entry["verdict"] == "never" else "loading beats computing from"
        lines.append(f"Tier {entry['tier']}{link}: {beats} {told}{' on' if entry['verdict'] == 'from' else ''}.")
    hit = [cell for cell in cells if cell["speedup"] is not None]
    if hit:
        best = max(hit, key=lambda cell: cell["speedup"])
        shared = "" if best["shared_tokens"] is None else f" of which {best['shared_tokens']:,} tokens are shared"
        lines.append(
            f"At best (tier {best['tier']}, {best['policy']}) the first token of a prompt{shared} comes after "
            f"{format_seconds(best['ttft_hit_s'])} in place of {format_seconds(best['ttft_hit_full_s'])}: "
            f"{best['speedup']:.1f} times as fast."
        )
    if is_emulated and any(cell["tier"] != "device" for cell in cells):
        lines.append("The link to the host is emulated: its bandwidth is stated, not found.")
    if stands_in is not None:
        lines.append("The trace tells which blocks prompts share, not their text: tokens stand in for them.")
    outside = max((cell.get("ttft_outside_frac") or 0.0 for cell in cells), default=0.0)
    if outside:
        lines.append(
            f"{_percent(outside)} of the prompts of a cell ask for more than the profile measured: extrapolated."
        )
    return lines


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
    left, right = add_panels(figure, 1, 2, across_inches=0.95)[0]
    handles: dict[str, Any] = {}
    for kind, cells in _kinds(summary, simulated):
        _line(left, handles, "no cache", cells, "ttft_hit_full_s", kind, color="0.35")
        for place, (key, group) in enumerate(_groups(cells).items()):
            _line(left, handles, _name(key), group, "ttft_hit_s", kind, **_looks(place))
            _line(right, handles, _name(key), group, "speedup", kind, **_looks(place))
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
    for place, key in enumerate(_groups(summary["cells"])):
        for entry in summary["break_evens"]:
            if tuple(entry[field] for field in _GROUP) == key and entry["from_tokens"] is not None:
                for axis in axes:
                    color = PALETTE[place % len(PALETTE)]
                    axis.axvline(entry["from_tokens"], color=color, linestyle=linestyle, linewidth=1.5)


def _over_budget(summary: Mapping[str, Any], simulated: Mapping[str, Any] | None) -> Figure:
    figure = new_figure(5.0, f"{summary['scenario']}: what a prompt cache saves", _how(summary, simulated))
    left, right = add_panels(figure, 1, 2, across_inches=0.95)[0]
    handles: dict[str, Any] = {}
    for kind, cells in _kinds(summary, simulated):
        groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for cell in cells:
            groups.setdefault((cell["tier"], cell["policy"], None, cell["link_bytes_per_s"]), []).append(cell)
        for place, (key, group) in enumerate(groups.items()):
            _line(left, handles, _name(key), group, "reused_frac", kind, over="budget_bytes", **_looks(place))
            _line(right, handles, _name(key), group, "ttft_mean_s", kind, over="budget_bytes", **_looks(place))
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
    if not places:  # a profile that cannot tell the times
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


def _kinds(
    summary: Mapping[str, Any], simulated: Mapping[str, Any] | None
) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    if simulated is None:
        return [("both", summary["cells"])]
    return [("line", simulated["cells"]), ("marks", summary["cells"])]


def _how(summary: Mapping[str, Any], simulated: Mapping[str, Any] | None) -> str:
    if simulated is not None:
        return "Lines: simulated. Marks: measured."
    return "Measured." if summary.get("is_measured") else "Simulated."


def _name(key: tuple[Any, ...]) -> str:
    tier, policy, link = key[0], key[1], key[3]
    return f"{tier}, {policy}" if link is None else f"{tier}, {policy}, link {_rate(link)}"


def _groups(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault(tuple(cell[name] for name in _GROUP), []).append(cell)
    return groups
