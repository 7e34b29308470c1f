"""Tables that add up to the time of steps: least squares of relative errors, nothing below zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from kvsim.calibration.serving.samples import StepSamples
from kvsim.errors import CalibrationError
from kvsim.profile.serving import PARTS, ServingCosts
from kvsim.profile.tables import Amount, CostTable
from kvsim.types import FloatArray

NUM_QUANTILES = 41
_GRID = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_TOKENS = (*range(1, 16), *range(16, 32, 4), *range(32, 64, 8), *(64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536))
_TOKENS += (2048, 4096, 8192)
"""A matrix product of few rows takes a time of its own for each count: on a CPU, two rows take longer than three."""
_LEAST_AT = 4
"""Steps that an amount of `_TOKENS` needs near it."""
_ROUNDS, _OUTLIER_FRAC = 20, 0.1
_LEAST_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rising:
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

    def values(self, unknowns: FloatArray) -> FloatArray:
        """Return the table's values of these unknowns."""
        return np.cumsum(unknowns if self.has_start else np.r_[0.0, unknowns])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Free:
    """One table whose values are the unknowns: it may fall where more takes less time."""

    amount: Amount
    amounts: FloatArray

    def columns(self, amounts: FloatArray) -> FloatArray:
        """Return how much of each unknown the amounts take, ``[num_steps, unknowns]``."""
        units = np.eye(self.amounts.size)
        return np.column_stack([np.interp(amounts, self.amounts, unit) for unit in units])

    def values(self, unknowns: FloatArray) -> FloatArray:
        """Return the table's values of these unknowns."""
        return unknowns


def _table(shape: _Rising | _Free, unknowns: FloatArray, num_samples: int, source: str) -> CostTable:
    """Return the table of these unknowns."""
    return CostTable(
        amount=shape.amount,
        amounts=tuple(shape.amounts.tolist()),
        time_s=tuple((float(value),) for value in shape.values(unknowns)),
        num_samples=num_samples,
        source=source,
    )


def fit_serving(samples: StepSamples, engine: str, source: str) -> ServingCosts:
    """Return the tables whose sums are nearest to the times of the steps.

    Over tokens a table may fall, as kernels of a few rows do. Each of the others is a value at its first amount and
    rises from there on, so more requests, keys or pairs never cost less.
    Steps far off count less (iteratively reweighted, Huber 1964): they show in `step_residuals_frac`.

    Raises
    ------
    CalibrationError
        If there are too few steps.
    """
    if samples.host_s.size < _LEAST_STEPS:
        raise CalibrationError(f"{samples.host_s.size} steps of vLLM were timed; at least {_LEAST_STEPS} are needed")
    columns = dict(zip(PARTS, samples.amounts.T, strict=True))
    host = _Rising(amount="requests", amounts=_grid(columns["host"]), has_start=True)
    forward: dict[str, _Rising | _Free] = {
        "tokens": _Free(amount="tokens", amounts=_supported(columns["tokens"])),
        "keys": _line("keys", columns["keys"]),
        "pairs": _line("pairs", columns["pairs"]),
        "sampled": _line("requests", columns["sampled"]),
    }
    count = samples.host_s.size
    tables = {"host": _table(host, _solve([host.columns(columns["host"])], samples.host_s)[0], count, source)}
    unknowns = _solve([table.columns(columns[name]) for name, table in forward.items()], samples.forward_s)
    for (name, table), values in zip(forward.items(), unknowns, strict=True):
        tables[name] = _table(table, values, count, source)
    costs = ServingCosts.model_validate({"engine": engine, **tables})
    quantiles = np.quantile(samples.step_s / costs.steps_s(samples.amounts) - 1, np.linspace(0, 1, NUM_QUANTILES))
    return costs.model_copy(update={"step_residuals_frac": tuple(np.round(quantiles, 5).tolist())})


def _grid(amounts: FloatArray) -> FloatArray:
    """Return the amounts of a table: powers of two within what was seen, and the most."""
    least, most = float(amounts.min()), float(amounts.max())
    inside = [float(point) for point in _GRID if least < point < 0.8 * most]
    return np.array([least, *inside, most] if most > least else [least, least + 1])


def _supported(amounts: FloatArray) -> FloatArray:
    """Return the amounts of `_TOKENS` that have steps near them, with the least and the most of all."""
    least, most = float(amounts.min()), float(amounts.max())
    points = np.array([float(point) for point in _TOKENS if least < point < 0.8 * most])
    nearest = np.abs(amounts[:, None] - np.r_[least, points, most]).argmin(axis=1)
    counts = np.bincount(nearest, minlength=points.size + 2)[1:-1]
    return np.r_[least, points[counts >= _LEAST_AT], most] if most > least else np.array([least, least + 1])


def _line(amount: Amount, amounts: FloatArray) -> _Rising:
    return _Rising(amount=amount, amounts=np.array([0.0, max(float(amounts.max()), 1.0)]), has_start=False)


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
