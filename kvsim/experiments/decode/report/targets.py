"""The targets of a cross-check of decode (docs/crosscheck.md): each figure of a comparison, met or missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvsim.report.tables import percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One figure of a comparison and the target for it."""

    name: str
    shown: str
    should_be: str
    is_met: bool | None
    """None where the figure does not apply, as the error in stalling cells where none stalls."""

    def __str__(self) -> str:
        """Return the line that a comparison ends with."""
        outcome = {True: "met", False: "MISSED", None: "does not apply"}[self.is_met]
        return f"{self.name}: {self.shown} (target: {self.should_be}): {outcome}"


def targets_of(figures: Mapping[str, Any]) -> list[Target]:
    """Return the figures of a comparison with their targets, those of docs/crosscheck.md."""
    median, worst = figures["tpot_median_error_frac"], figures["tpot_worst_error_frac"]
    added, null, ours = (figures[f"{name}_median_error_frac"] for name in ("added", "best_null", "paged"))
    stall, tau, coverage = figures["stall_cells_frac"], figures["kendall_tau"], figures["interval_coverage_frac"]
    is_inside, num_pairs = bool(figures["worst_within_spread"]), figures["kendall_pairs"]
    where = "inside" if is_inside else "outside"
    judged: list[tuple[str, str, str, bool | None]] = [
        ("counts equal", "yes" if figures["counts_equal"] else "NO", "yes", bool(figures["counts_equal"])),
        ("time per token, median error", percent(median), "at most 5%", median <= 0.05),
        (
            "time per token, worst error",
            f"{percent(worst)}, {where} that cell's measured spread",
            "at most 15%, or inside",
            worst <= 0.15 or is_inside,
        ),
        (
            "what the cache adds, median error in stalling cells",
            percent(added),
            "at most 10%",
            None if added is None else added <= 0.1,
        ),
        (
            "median error where pages move",
            f"{percent(ours)}, best null predictor {percent(null)}",
            "a third of the null predictor's",
            None if ours is None or null is None else ours <= null / 3,
        ),
        ("cells that stall a quarter of their time or more", percent(stall), "at least a third", stall >= 1 / 3),
        (
            "Kendall's tau",
            f"{'-' if tau is None else f'{tau:.3f}'} over {num_pairs} pairs",
            "0.9 over 20",
            tau is not None and tau >= 0.9 and num_pairs >= 20,
        ),
        ("cells inside the simulated 90% interval", percent(coverage), "80 to 98%", 0.8 <= coverage <= 0.98),
    ]
    return [Target(name=name, shown=shown, should_be=aim, is_met=is_met) for name, shown, aim, is_met in judged]


def verdict_lines(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for each figure of a comparison with its target, and how many are met."""
    targets = targets_of(figures)
    judged = [target for target in targets if target.is_met is not None]
    missed = [target.name for target in judged if not target.is_met]
    closing = f"targets met: {len(judged) - len(missed)} of {len(judged)}"
    return [
        f"resident + misses x bytes / bandwidth, median error: {percent(figures['additive_null_median_error_frac'])}",
        *map(str, targets),
        f"{closing}; missed: {'; '.join(missed)}" if missed else closing,
    ]
