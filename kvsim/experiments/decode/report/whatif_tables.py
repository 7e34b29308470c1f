"""A result beside what it would be, and what reaches a figure: as text, and as JSON prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kvsim.experiments.decode.entry import value_of
from kvsim.experiments.decode.report.sweep_front import field_name
from kvsim.experiments.decode.sweep.reach import Reached, is_whole, value_text
from kvsim.experiments.decode.sweep.whatif import Pair
from kvsim.report.tables import aligned, percent
from kvsim.units import format_bytes, format_seconds

_FIGURES = ("tpot_p50_s", "tokens_per_s", "stall_frac", "hit_frac", "device_bytes", "fits", "mass_recall_frac")
_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "stall_frac": ("stall", percent),
    "device_bytes": ("device", format_bytes),
    "mass_recall_frac": ("attention recall", percent),
}
"""What the table shows besides the time, before and after: titles, and how it is printed."""


def whatif_contents(changes: Sequence[str], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return what ``--json`` prints: a cell a pair, with its figures before and after."""
    cells = [
        {
            "policy": pair.policy,
            **pair.swept,
            "tpot_ratio": pair.tpot_ratio,
            "before": {name: value_of(pair.before, name) for name in _FIGURES},
            "after": {name: value_of(pair.after, name) for name in _FIGURES},
        }
        for pair in pairs
    ]
    return {"changes": list(changes), "cells": cells}


def whatif_text(changes: Sequence[str], pairs: Sequence[Pair], summary: Mapping[str, Any], *, width: int = 120) -> str:
    """Return a line a cell, before and after, and below what is hypothetical or outside the profile."""
    keys = (key.rsplit(".", 1)[-1].replace("_", " ") for key in pairs[0].swept)
    table = [["policy", *keys, "TPOT p50", "would be", "ratio"]]
    for title, _ in _SHOWN.values():
        table[0] += [title, "would be"]
    for pair in pairs:
        times = (format_seconds(side["tpot_p50_s"]) for side in (pair.before, pair.after))
        row = [pair.policy, *map(str, pair.swept.values()), *times, f"{pair.tpot_ratio:.3f}"]
        for name, (_, text) in _SHOWN.items():
            row += [text(value_of(pair.before, name)), text(value_of(pair.after, name))]
        table.append(row)
    warned = [line for line in summary["verdict"] if line.startswith(("Hypothetical", "Outside the profile"))]
    caption = f"{summary['scenario']}, and what it would be with {', '.join(changes)}:"
    notes = [textwrap.fill(line, width) for line in warned]
    return "\n".join([*textwrap.wrap(caption, width), "", *aligned(table), *([""] if notes else []), *notes])


def reach_text(
    figure: str, most: float, key: str, bounds: tuple[float, float], answers: Sequence[Reached], *, width: int = 120
) -> str:
    """Return a line a policy: from which value on it reaches the figure, or how near it comes."""
    whole = is_whole(key)
    low, high = (value_text(bound, is_whole=whole) for bound in bounds)
    table = [["policy", "reached at", figure, "not at", figure, "tried"]]
    table += [_reach_row(one, figure, whole) for one in answers]
    name = (
        key.removeprefix("profile.").replace("_", " ") + " (factor)" if key.startswith("profile.") else field_name(key)
    )
    caption = (
        f"{figure} of at most {_number(most)}, over {name} from {low} to {high}. Halved between a value that reaches "
        "it and one that does not; that no value beyond changes it again was not tried."
    )
    notes = [
        f"{one.policy} can be simulated from {value_text(one.low, is_whole=whole)} to "
        f"{value_text(one.high, is_whole=whole)} only."
        for one in answers
        if one.low is not None and one.high is not None and (one.low, one.high) != bounds
    ]
    return "\n".join([*textwrap.wrap(caption, width), "", *aligned(table), *([""] if notes else []), *notes])


def _reach_row(one: Reached, figure: str, whole: bool) -> list[str]:
    figures = dict(one.tried)
    num_tried = str(len(one.tried))
    if one.reached is None:
        known = [(value, at) for at, value in one.tried if value is not None]
        if not known:
            return [one.policy, "no", "cannot be simulated", "", "", num_tried]
        best, at = min(known)
        return [one.policy, "no", f"best {_shown(figure, best)} at {value_text(at, is_whole=whole)}", "", "", num_tried]
    missed = "all" if one.missed is None else value_text(one.missed, is_whole=whole)
    beyond = "" if one.missed is None else _shown(figure, figures[one.missed])
    reached = value_text(one.reached, is_whole=whole)
    return [one.policy, reached, _shown(figure, figures[one.reached]), missed, beyond, num_tried]


def _number(value: float) -> str:
    return str(round(value)) if float(value).is_integer() else repr(value)


def _shown(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if figure.endswith("_s") and not figure.endswith("per_s"):
        return format_seconds(value)
    if figure.endswith("_bytes"):
        return format_bytes(value)
    return percent(value) if figure.endswith("_frac") else f"{value:.4g}"
