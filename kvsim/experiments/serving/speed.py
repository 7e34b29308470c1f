"""How fast the machine was while an engine was measured, by random requests that were served between the runs.

A machine that others share changes its speed by some per cent within minutes, and above the rate that it can serve such
a difference grows to many times itself in the queue. The requests are none of those that are predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvsim.profile.serving import PARTS, ServingCosts
from kvsim.report.results import load_result

PROBES = "probes"
"""Table of a measured result: the steps of the random requests before and after each run, work and time of each."""

_HALF_WIDTH = 1.645
"""Standard deviations to either side that hold 90% of normal errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What steps took in one cell, over what a profile says."""

    step_time_ratio: float
    """Median over the runs, each the mean of before and after."""
    error_frac: float
    """What the steps of the median run may differ by from this, to either side, with 90% confidence."""

    def costs(self, costs: ServingCosts) -> ServingCosts:
        """Return what steps cost at this speed; how far rounds of the calibration were apart no longer matters."""
        tables = {
            name: table.model_copy(
                update={"time_s": tuple(tuple(self.step_time_ratio * time_s for time_s in row) for row in table.time_s)}
            )
            for name, table in costs.tables().items()
        }
        return costs.model_copy(update=tables | {"error_frac": self.error_frac})


def speeds_of(folder: Path, costs: ServingCosts, *, has_spread: bool) -> dict[int, Speed]:
    """Return the speed in each cell of a measured result; none where it has no probes.

    A run may differ from the mean of the two probes around it by about half of what these differ by (so if the speed
    changes faster than runs last; a third of it if it drifts slowly), and a median of runs by less.

    Parameters
    ----------
    has_spread
        Whether single steps are simulated with their spread, whose mean is not zero.
    """
    probes = load_result(folder).tables.get(PROBES)
    if probes is None:
        return {}
    predicted_s = costs.steps_s(np.column_stack([probes[name] for name in PARTS]).astype(float))
    predicted_s *= costs.mean_spread if has_spread else 1.0
    ratios: dict[int, list[list[float]]] = {}
    for cell, repeat in sorted(set(zip(probes["cell"].tolist(), probes["repeat"].tolist(), strict=True))):
        own = (probes["cell"] == cell) & (probes["repeat"] == repeat)
        sides = [own & (probes["is_after"] == is_after) for is_after in (False, True)]
        ratios.setdefault(cell, []).append(
            [float(probes["time_s"][side].sum() / predicted_s[side].sum()) for side in sides]
        )
    changes = np.array([after / before - 1 for runs in ratios.values() for before, after in runs])
    spread_frac = float(np.sqrt(np.mean(np.square(changes / 2))))
    return {
        cell: Speed(
            step_time_ratio=float(np.median(np.mean(runs, axis=1))),
            error_frac=_HALF_WIDTH * spread_frac * _error_of_median(len(runs)),
        )
        for cell, runs in ratios.items()
    }


def _error_of_median(count: int) -> float:
    """Return the standard error of a median of so many normal values, over that of one."""
    return float(np.sqrt((np.pi / 2 if count > 2 else 1.0) / count))
