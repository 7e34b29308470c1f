"""The predictors' table: what each prefetcher predicts and what that is worth, as frame, text, verdict, picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib import rc_context
from matplotlib.figure import Figure

from kvsim.report.style import PALETTE, STYLE, add_panels, legend_above, new_figure
from kvsim.report.tables import aligned

BASE, ALONE, BOUNDS = "previous-step", "lru", ("belady", "oracle-prefetch")
MIN_GAIN_POINTS, MAX_STALL_FRAC = 10.0, 0.5
"""What a predictor should reach against `BASE`: so much more recall, at most such a share of its stall."""

LEGEND = (
    "Means over the texts that nothing was tuned on; the middle of the context only. recall: share of a layer's next "
    "selection that is among as many predicted pages (precision is the same number). moved: pages over the link, "
    "demand and prefetch, in multiples of what no prefetching moves. avoided: share of its demand misses. used: "
    "share of prefetched pages that were read before they left. of misses: used / (used + missed). "
    "stall, step: milliseconds a token, simulated; decisions cost what those of lru do."
)


def predictors_frame(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the means over held-out texts, a row for each budget and predictor in the records' order.

    Where all texts were tuned on, over all of them.
    """
    frame = pd.DataFrame([dict(record) for record in records])
    held_out = frame[~frame["is_tuned_on"]]
    frame = held_out if len(held_out) else frame
    figures = [
        name for name in frame.columns if name.split("@")[0].endswith(("_frac", "_s", "_pages")) or _is_count(name)
    ]
    keys = ["budget_pages", "predictor"]
    return frame.groupby(keys, sort=False)[[name for name in figures if name not in keys]].mean().reset_index()


def _is_count(name: str) -> bool:
    return name in ("misses", "prefetched", "used", "wasted")


def predictors_text(records: Sequence[Mapping[str, Any]], *, markdown: bool = False) -> str:
    """Return the table for people, as text or as Markdown."""
    frame = predictors_frame(records)
    profiles = [name.split("@")[1] for name in frame.columns if name.startswith("stall_s@")]
    lines = []
    for budget_pages, rows in frame.groupby("budget_pages", sort=True):
        head = ["predictor", "recall", "moved", "avoided", "used", "of misses"]
        head += [f"{part} {name.split('-')[0]}" for name in profiles for part in ("stall", "step")]
        table = [head] + [_cells(row, profiles) for row in rows.to_dict("records")]
        shown = _markdown(table) if markdown else aligned(table, rule=False)
        lines += [f"budget {budget_pages} pages a layer", *shown, ""]
    return "\n".join([*lines, LEGEND])


def _cells(row: Mapping[Any, Any], profiles: Sequence[str]) -> list[str]:
    cells = [str(row["predictor"]), _percent(row["selection_recall_frac"]), f"{row['moved_vs_lru_frac']:.2f}x"]
    cells += [_percent(row[name]) for name in ("misses_avoided_frac", "precision_frac", "recall_frac")]
    for name in profiles:
        cells += [f"{1e3 * row[f'stall_s@{name}']:.3f}", f"{1e3 * row[f'step_s@{name}']:.2f}"]
    return cells


def _percent(value: float) -> str:
    return "-" if pd.isna(value) else f"{100 * value:.1f}%"


def _markdown(table: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] + ["---:"] * (len(table[0]) - 1)
    return ["", *("| " + " | ".join(row) + " |" for row in (table[0], rule, *table[1:]))]


def predictors_verdict(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the table says against its targets: recall over previous-step, stall against it, the whole step."""
    frame = predictors_frame(records)
    profiles = [name.split("@")[1] for name in frame.columns if name.startswith("stall_s@")]
    lines, is_reached = [], []
    for budget_pages, rows in frame.groupby("budget_pages", sort=True):
        by_name: dict[str, dict[Any, Any]] = {str(row["predictor"]): dict(row) for row in rows.to_dict("records")}
        if BASE not in by_name or ALONE not in by_name:
            continue
        real = {name: row for name, row in by_name.items() if name not in (ALONE, *BOUNDS)}
        best = max(real, key=lambda name: float(real[name]["selection_recall_frac"]))
        ours, base = real[best], real[BASE]
        gain = 100 * (ours["selection_recall_frac"] - base["selection_recall_frac"])
        lines.append(
            f"{budget_pages} pages a layer: {best} predicts best, {gain:.1f} points of recall above {BASE}. At "
            f"{ours['moved_vs_lru_frac']:.2f} times the bytes of no prefetching it avoids "
            f"{_percent(ours['misses_avoided_frac'])} of the misses; {BASE}, at {base['moved_vs_lru_frac']:.2f} times, "
            f"{_percent(base['misses_avoided_frac'])}."
        )
        for name in profiles:
            stall, step, select = f"stall_s@{name}", f"step_s@{name}", f"select_s@{name}"
            is_reached.append(gain >= MIN_GAIN_POINTS and ours[stall] <= MAX_STALL_FRAC * base[stall])
            quickest = min(real, key=lambda one: float(real[one][step]))
            lines.append(
                f"  {name}: {best} stalls {ours[stall] / base[stall]:.2f} times as long as {BASE} "
                f"({1e3 * (ours[stall] - base[stall]):+.3f} ms); scoring takes "
                f"{1e3 * (ours[select] - base[select]):+.3f} ms, so that its whole step takes "
                f"{ours[step] / base[step]:.3f} times as long. The quickest step is that of {quickest}, "
                f"{real[quickest][step] / by_name[ALONE][step]:.3f} times that of no prefetching."
            )
    if is_reached:
        lines.append(
            f"Target ({MIN_GAIN_POINTS:.0f} points of recall above {BASE}, at most {MAX_STALL_FRAC:.0%} of its stall): "
            + ("reached throughout." if all(is_reached) else "missed." if not any(is_reached) else "reached in part.")
        )
    lines += [
        f"{name}: the profile has no measured cost of predicting the next layer's scores. Scoring pages and all of "
        "the attention input together stand in, an upper bound: steps with speculation are at most so long."
        for name in profiles
        if records[0].get(f"is_speculation_assumed@{name}")
    ]
    return lines


def predictors_figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the picture: recall of the next selection by text, and stall and step against no prefetching.

    Dots are texts, bars their mean; what is above the dashed line is worse than not prefetching.
    """
    frame = pd.DataFrame([dict(record) for record in records])
    profiles = [name.split("@")[1] for name in frame.columns if name.startswith("stall_s@")]
    order = list(dict.fromkeys(frame["predictor"]))
    budgets = sorted(set(frame["budget_pages"]))
    figure = new_figure(
        3.2 + 3.4 * len(profiles),
        "Predicting what attention reads next, and what it is worth at equal bytes",
        f"Middle of the context, best {int(frame['k_pages'].iloc[0])} pages a layer by estimate. Simulated. Bars: mean "
        "over texts; dots: texts.",
    )
    panels = add_panels(figure, len(profiles), 3)
    looks = dict(zip(budgets, PALETTE, strict=False))
    one = {budgets[0]: "#777777"}
    with rc_context(STYLE):
        _bars(panels[0][0], frame[frame["budget_pages"] == budgets[0]], "selection_recall_frac", order, one)
        panels[0][0].set_xlabel("recall of the next selection, %")
        for row, profile in zip(panels, profiles, strict=True):
            if profile is not profiles[0]:
                _bars(row[0], frame, "misses_avoided_frac", order, looks)
                row[0].set_xlabel("demand misses avoided, %")
            for axis, part in zip(row[1:], ("stall_s", "step_s"), strict=True):
                shown = frame.assign(ratio=_against_none(frame, f"{part}@{profile}"))
                _bars(axis, shown, "ratio", order, looks)
                axis.axvline(100, color="black", linestyle="--", linewidth=1)
                axis.set_yticklabels([])
                axis.set_xlabel(f"{part.removesuffix('_s')}, % of no prefetching ({profile.split('-')[0]})")
        handles, labels = panels[0][1].get_legend_handles_labels()
        legend_above(
            figure, {f"{label} device pages a layer": handle for label, handle in zip(labels, handles, strict=True)}
        )
    return figure


def _against_none(frame: pd.DataFrame, name: str) -> Any:
    alone = frame[frame["predictor"] == ALONE].set_index(["capture", "budget_pages"])[name]
    keys = pd.MultiIndex.from_frame(frame[["capture", "budget_pages"]])
    return pd.Series(frame[name].to_numpy() / alone.reindex(keys).to_numpy(), index=frame.index)


def _bars(axis: Any, frame: pd.DataFrame, name: str, order: Sequence[str], looks: Mapping[int, str]) -> None:
    shown = frame.assign(percent=100 * frame[name])
    common: dict[str, Any] = {
        "data": shown,
        "y": "predictor",
        "x": "percent",
        "hue": "budget_pages",
        "order": list(order),
        "palette": dict(looks),
        "legend": False,
        "ax": axis,
    }
    sns.barplot(**common | {"legend": True}, errorbar=None, alpha=0.75)
    sns.stripplot(**common, dodge=len(looks) > 1, size=4, jitter=False, edgecolor="black", linewidth=0.6)
    legend = axis.get_legend()
    if legend is not None:
        legend.remove()
    axis.set_ylabel("")
