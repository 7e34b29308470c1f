"""Seconds of a serving step, by the tables of a profile, in compiled code."""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import ArrayTable
from kvsim.kernels.serving import costs as at
from kvsim.kernels.serving.costs import step_s
from kvsim.policies.schedulers import StepWork
from kvsim.profile.serving import PARTS, ServingCosts
from kvsim.profile.tables import CostTable
from kvsim.types import FloatArray

_NUM_FACTORS = 2**14
"""Steps after which the spread of single steps repeats itself."""


class StepCosts:
    """What steps cost, and the total of each part so far.

    Parameters
    ----------
    costs
        The tables.
    scale
        What every time is multiplied with.
    random
        Draws how single steps spread around the tables, where the profile knows; None for no spread.
    """

    def __init__(self, costs: ServingCosts, *, scale: float = 1.0, random: np.random.Generator | None = None) -> None:
        packed: list[float] = []
        numbers = np.zeros(at.NUM_NUMBERS, dtype=np.int64)
        for place, table in enumerate(costs.tables().values()):
            numbers[place] = len(packed)
            packed += _packed(table)
        self._totals: FloatArray = np.zeros(at.NUM_PARTS)
        self._most: FloatArray = np.zeros(at.NUM_PARTS)
        arrays = {
            at.TABLES: np.array(packed),
            at.NUMBERS: numbers,
            at.TOTALS: self._totals,
            at.MOST: self._most,
            at.FACTORS: scale * _factors(costs.step_residuals_frac, random),
        }
        self._arrays = ArrayTable(at.NUM_ARRAYS, arrays)
        self.address = self._arrays.address
        """Of its arrays, for compiled code."""

    def step_s(self, work: StepWork) -> tuple[float, float]:
        """Return the seconds of the host and of the forward pass of one step, and count them."""
        requests, tokens, sampled, context_tokens, pairs, _ = work
        host_s, forward_s = step_s(self.address, requests, tokens, sampled, context_tokens, pairs)
        return host_s, forward_s

    @property
    def totals_s(self) -> dict[str, float]:
        """Seconds of each part in all steps so far, unscaled and without the spread."""
        return dict(zip(PARTS, self._totals.tolist(), strict=True))

    @property
    def most(self) -> dict[str, float]:
        """The greatest amount of each part in one step so far."""
        return dict(zip(PARTS, self._most.tolist(), strict=True))


def _packed(table: CostTable) -> list[float]:
    return [float(len(table.amounts)), *table.amounts, *(row[0] for row in table.time_s)]


def _factors(residuals_frac: tuple[float, ...], random: np.random.Generator | None) -> FloatArray:
    if random is None or not residuals_frac:
        return np.ones(1)
    places = random.random(_NUM_FACTORS) * (len(residuals_frac) - 1)
    factors: FloatArray = 1.0 + np.interp(places, np.arange(len(residuals_frac)), residuals_frac)
    return factors
