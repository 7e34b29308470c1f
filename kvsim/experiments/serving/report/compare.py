"""The text of a comparison of simulated with measured serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvsim.report.tables import aligned, percent, signed_percent
from kvsim.units import format_seconds

_HEADS = ("cell", "figure", "simulated", "interval", "vLLM", "its runs", "error", "target", "")


def compare_text(
    contents: Mapping[str, Any],
    cells: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    *,
    keys: Sequence[str],
    coverage: tuple[float, float],
    null_factor: float,
) -> str:
    """Return schedules, the figures of every cell with their targets, and what misses."""
    rows = contents["figures"]
    missed = [row for row in rows if not row["is_met"]]
    names = ["; ".join(f"{key.rpartition('.')[2]} {sim[key]}" for key in keys) or "all" for sim, _ in cells]
    lines = [_schedules_line(contents["schedules"])] if contents["schedules"] else []
    if ratios := [sim["step_time_ratio"] for sim, _ in cells if "step_time_ratio" in sim]:
        lines.append(
            f"machine: random requests between the runs took {', '.join(f'{ratio:.3f}' for ratio in ratios)} times "
            "what the profile says of them, cell by cell; so do the steps that were simulated"
        )
    if not contents["counts_equal"]:
        lines.append(f"The requests are not the same: {contents['divergence']}")
    lines.append(_table(rows, names))
    lines.append(f"targets: {contents['targets_met']} of {len(rows)} met{_missed_text(missed, names)}")
    held = contents["interval_coverage_frac"]
    lines.append(
        f"interval: {percent(held, 0)} of the figures of all cells lie in theirs "
        f"(should be {100 * coverage[0]:.0f} to {percent(coverage[1], 0)})"
    )
    if contents["null_factor"]:
        best, factor = min(contents["null_factor"].items(), key=lambda item: item[1])
        lines.append(f"nulls: the best ({best}) is {factor:.1f} times as far off (should be {null_factor:g} or more)")
    return "\n".join(lines)


def _missed_text(missed: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    named = [f"{row['figure']} at {names[row['cell']]} ({signed_percent(row['error_frac'])})" for row in missed]
    return "; missed: " + ", ".join(named) if named else ""


def _schedules_line(schedules: Sequence[Mapping[str, Any]]) -> str:
    unequal = [one for one in schedules if one["difference"]]
    steps = sum(one["steps"] for one in schedules)
    if unequal:
        first = f"{unequal[0]['file']}: {unequal[0]['difference']}"
        return f"schedules: {len(unequal)} of {len(schedules)} runs differ; {first}"
    return f"schedules: equal in all {steps:,} steps of {len(schedules)} runs, evictions included"


def _table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    body = [
        [
            names[row["cell"]],
            row["figure"],
            _shown(row["figure"], row["simulated"]),
            _span(row["figure"], row["interval"]),
            _shown(row["figure"], row["measured"]),
            _span(row["figure"], (min(row["runs"]), max(row["runs"]))),
            signed_percent(row["error_frac"]),
            percent(row["target_frac"], 0),
            "" if row["is_met"] else "missed",
        ]
        for row in rows
    ]
    return "\n".join(aligned([list(_HEADS), *body], left=(0, 1)))


def _shown(figure: str, value: float) -> str:
    return format_seconds(value) if figure.endswith("_s") and not figure.endswith("per_s") else f"{value:.3g}"


def _span(figure: str, ends: Sequence[float] | None) -> str:
    return "-" if ends is None else f"{_shown(figure, ends[0])} to {_shown(figure, ends[1])}"
