"""Tables that add up to the time of steps: least squares of relative errors, with tables that never fall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from kvsim.calibration.serving.samples import AMOUNTS, StepSamples
from kvsim.errors import CalibrationError
from kvsim.profile.serving import ServingCosts
from kvsim.profile.tables import Amount, CostTable
from kvsim.types import FloatArray

NUM_QUANTILES = 41
_GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_ROUNDS, _OUTLIER_FRAC = 20, 0.1
_LEAST_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """One table as columns of the equations: a value at its first amount, and the rise to each of the others."""

    amount: Amount
    amounts: FloatArray
    has_start: bool
    """Whether it costs something at its first amount; else it is none there."""

    def columns(self, amounts: FloatArray) -> FloatArray:
        """Return how much of each unknown the amounts take, ``[num_steps, unknowns]``."""
        widths = np.diff(self.amounts)
        rises = np.clip((amounts[:, None] - self.amounts[:-1]) / widths, 0, 1)
        rises[:, -1] = np.maximum((amounts - self.amounts[-2]) / widths[-1], 0)
        return np.column_stack([np.ones(amounts.size), rises]) if self.has_start else rises

    def table(self, unknowns: FloatArray, num_samples: int, source: str) -> CostTable:
        """Return the table of these unknowns."""
        values = np.cumsum(unknowns if self.has_start else np.r_[0.0, unknowns])
        return CostTable(
            amount=self.amount,
            amounts=tuple(self.amounts.tolist()),
            time_s=tuple((float(value),) for value in values),
            num_samples=num_samples,
            source=source,
        )


def fit_serving(samples: StepSamples, engine: str, source: str) -> ServingCosts:
    """Return the tables whose sums are nearest to the times of the steps.

    Each table is a value at its first amount and rises from there on, none below zero, so more work never costs less.
    Steps far off count less (iteratively reweighted, Huber 1964): they show in `step_residuals_frac`.

    Raises
    ------
    CalibrationError
        If there are too few steps.
    """
    if samples.host_s.size < _LEAST_STEPS:
        raise CalibrationError(f"{samples.host_s.size} steps of vLLM were timed; at least {_LEAST_STEPS} are needed")
    columns = dict(zip(AMOUNTS, samples.amounts.T, strict=True))
    host = _Table(amount="requests", amounts=_grid(columns["host"]), has_start=True)
    forward = {
        "tokens": _Table(amount="tokens", amounts=_grid(columns["tokens"]), has_start=True),
        "keys": _line("keys", columns["keys"]),
        "pairs": _line("pairs", columns["pairs"]),
        "sampled": _line("requests", columns["sampled"]),
    }
    count = samples.host_s.size
    tables = {"host": host.table(_solve([host.columns(columns["host"])], samples.host_s)[0], count, source)}
    unknowns = _solve([table.columns(columns[name]) for name, table in forward.items()], samples.forward_s)
    for (name, table), values in zip(forward.items(), unknowns, strict=True):
        tables[name] = table.table(values, count, source)
    costs = ServingCosts.model_validate({"engine": engine, **tables})
    quantiles = np.quantile(_times_s(samples) / predicted_s(costs, samples) - 1, np.linspace(0, 1, NUM_QUANTILES))
    return costs.model_copy(update={"step_residuals_frac": tuple(np.round(quantiles, 5).tolist())})


def predicted_s(costs: ServingCosts, samples: StepSamples) -> FloatArray:
    """Return what the tables say of each step, host and forward together."""
    total_s = np.zeros(samples.host_s.size)
    for table, amounts in zip(costs.tables().values(), samples.amounts.T, strict=True):
        total_s += np.array([table.at_s(amount) for amount in amounts])
    return total_s


def error_frac(parts: Sequence[StepSamples], engine: str, source: str) -> float:
    """Return by how much the time of a run is off that was left out of the fit: the root mean square over the runs.

    Times 1.645, for 90% of runs if errors are normal.
    """
    errors = []
    for left_out, part in enumerate(parts):
        others = StepSamples.together([other for place, other in enumerate(parts) if place != left_out])
        costs = fit_serving(others, engine, source)
        errors.append(float(predicted_s(costs, part).sum() / _times_s(part).sum()) - 1)
    return float(1.645 * np.sqrt(np.mean(np.square(errors))))


def _times_s(samples: StepSamples) -> FloatArray:
    return samples.host_s + samples.forward_s


def _grid(amounts: FloatArray) -> FloatArray:
    """Return the amounts of a table: powers of two within what was seen, and the most."""
    least, most = float(amounts.min()), float(amounts.max())
    inside = [float(point) for point in _GRID if least < point < 0.8 * most]
    return np.array([least, *inside, most] if most > least else [least, least + 1])


def _line(amount: Amount, amounts: FloatArray) -> _Table:
    return _Table(amount=amount, amounts=np.array([0.0, max(float(amounts.max()), 1.0)]), has_start=False)


def _solve(parts: Sequence[FloatArray], time_s: FloatArray) -> list[FloatArray]:
    """Return the unknowns of each part, none below zero, with the least relative errors."""
    columns = np.column_stack(parts) / time_s[:, None]
    weights = np.ones(time_s.size)
    for _ in range(_ROUNDS):
        unknowns = nnls(columns * weights[:, None], weights)[0]
        off_frac = np.abs(columns @ unknowns - 1)
        weights = np.sqrt(np.minimum(1.0, _OUTLIER_FRAC / np.maximum(off_frac, 1e-9)))
    ends = np.cumsum([part.shape[1] for part in parts])
    return np.split(unknowns, ends[:-1])
