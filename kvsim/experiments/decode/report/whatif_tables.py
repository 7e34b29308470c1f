"""A result beside what it would be, and what reaches a figure: as text, and as JSON prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from kvsim.experiments.decode.report.sweep_tables import field_name
from kvsim.report.tables import aligned, percent
from kvsim.units import format_bytes, format_seconds

Cell: TypeAlias = Mapping[str, Any]
Pair: TypeAlias = tuple[str, Mapping[str, Any], Cell, Cell]
"""Policy, swept fields, figures before and after."""

Told: TypeAlias = tuple[str, Sequence[tuple[float, float | None]], float | None, float | None]
"""Policy, values tried with their figures, the value that reaches it, the nearest that does not."""

_FIGURES = ("tpot_p50_s", "tokens_per_s", "stall_frac", "hit_frac", "device_bytes", "fits", "mass_recall_frac")


def whatif_contents(changes: Sequence[str], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return what ``--json`` prints: a cell a pair, with its figures before and after."""
    cells = [
        {
            "policy": policy,
            **swept,
            "tpot_ratio": after["tpot_p50_s"] / before["tpot_p50_s"],
            "before": {name: before[name] for name in _FIGURES},
            "after": {name: after[name] for name in _FIGURES},
        }
        for policy, swept, before, after in pairs
    ]
    return {"changes": list(changes), "cells": cells}


def whatif_text(changes: Sequence[str], pairs: Sequence[Pair], summary: Mapping[str, Any], *, width: int = 120) -> str:
    """Return a line a cell, before and after, and below what is hypothetical or outside the profile."""
    keys = list(pairs[0][1])
    titles = ["policy", *(key.rsplit(".", 1)[-1].replace("_", " ") for key in keys)]
    table = [
        [*titles, "TPOT p50", "would be", "ratio", "stall", "would be", "device", "would be", "mass kept", "would be"]
    ]
    for policy, swept, before, after in pairs:
        ratio = after["tpot_p50_s"] / before["tpot_p50_s"]
        table.append([policy, *(str(swept[key]) for key in keys), *_two(before, after, ratio)])
    warned = [line for line in summary["verdict"] if line.startswith(("Hypothetical", "Outside the profile"))]
    caption = f"{summary['scenario']}, and what it would be with {', '.join(changes)}:"
    notes = [textwrap.fill(line, width) for line in warned]
    return "\n".join([*textwrap.wrap(caption, width), "", *aligned(table), *([""] if notes else []), *notes])


def _two(before: Cell, after: Cell, ratio: float) -> list[str]:
    return [
        format_seconds(before["tpot_p50_s"]),
        format_seconds(after["tpot_p50_s"]),
        f"{ratio:.3f}",
        percent(before["stall_frac"]),
        percent(after["stall_frac"]),
        format_bytes(before["device_bytes"]),
        format_bytes(after["device_bytes"]),
        percent(before["mass_recall_frac"]),
        percent(after["mass_recall_frac"]),
    ]


def reach_text(
    figure: str, most: float, key: str, bounds: tuple[float, ...], found: Sequence[Told], *, width: int = 120
) -> str:
    """Return a line a policy: from which value on it reaches the figure, or how near it comes."""
    low, high = bounds
    table = [["policy", "reached at", figure, "not at", figure, "tried"]]
    for policy, tried, reached, missed in found:
        figures = dict(tried)
        if reached is None:
            known = [(value, at) for at, value in tried if value is not None]
            nearest = f"best {_shown(figure, min(known)[0])} at {min(known)[1]:.4g}" if known else "cannot be simulated"
            table.append([policy, "no", nearest, "", "", str(len(tried))])
            continue
        less = "all" if missed is None else f"{missed:.4g}"
        table.append(
            [
                policy,
                f"{reached:.4g}",
                _shown(figure, figures[reached]),
                less,
                "" if missed is None else _shown(figure, figures[missed]),
                str(len(tried)),
            ]
        )
    name = (
        key.removeprefix("profile.").replace("_", " ") + " (factor)" if key.startswith("profile.") else field_name(key)
    )
    caption = (
        f"{figure} of at most {most:g}, over {name} from {low:g} to {high:g}. Halved between a value that reaches it "
        "and one that does not; that no value beyond changes it again was not tried."
    )
    return "\n".join([*textwrap.wrap(caption, width), "", *aligned(table)])


def _shown(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if figure.endswith("_s") and not figure.endswith("per_s"):
        return format_seconds(value)
    if figure.endswith("_bytes"):
        return format_bytes(value)
    return percent(value) if figure.endswith("_frac") else f"{value:.4g}"
