"""How far a run may be off: what rounds share, and what single bursts add and a long run averages out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kvsim.calibration.serving.fit import fit_serving
from kvsim.calibration.serving.samples import StepSamples

_HALF_WIDTH = 1.645
"""Standard deviations to either side that hold 90% of normal errors."""


def run_errors(rounds: Sequence[Sequence[StepSamples]]) -> dict[str, float]:
    """Return `error_frac`, `part_error_frac` and `part_s` of `kvsim.profile.serving.ServingCosts`.

    Each round is predicted from the others. The mean error of its bursts is that of the round, which a run shares (the
    machine is faster or slower for a while); how its bursts differ around that mean is a matter of each. From the
    spread of the rounds the share is taken that their bursts alone would give (one-way analysis of variance).

    Parameters
    ----------
    rounds
        The steps of each burst of each round; two rounds at least.
    """
    errors = np.array([_errors(rounds, left_out) for left_out in range(len(rounds))])
    within = float(errors.var(axis=1, ddof=1).mean()) if errors.shape[1] > 1 else 0.0
    between = max(float(np.square(errors.mean(axis=1)).mean()) - within / errors.shape[1], 0.0)
    parts = [part for bursts in rounds for part in bursts]
    return {
        "error_frac": _HALF_WIDTH * float(np.sqrt(between)),
        "part_error_frac": _HALF_WIDTH * float(np.sqrt(within)),
        "part_s": float(np.mean([part.step_s.sum() for part in parts])),
    }


def _errors(rounds: Sequence[Sequence[StepSamples]], left_out: int) -> list[float]:
    """Return by how much each burst of a round is off in costs of the other rounds."""
    others = [part for place, bursts in enumerate(rounds) if place != left_out for part in bursts]
    costs = fit_serving(StepSamples.together(others), "", "")
    return [
        float(costs.mean_spread * costs.steps_s(part.amounts).sum() / part.step_s.sum()) - 1
        for part in rounds[left_out]
    ]
