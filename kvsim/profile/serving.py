"""What a step of a serving engine costs: host work that grows with the batch, then one forward pass."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeFloat, model_validator

from kvsim.profile.tables import CostTable, Row
from kvsim.scenario.toml import Strict
from kvsim.types import FloatArray

PARTS = ("host", "tokens", "keys", "pairs", "sampled")
"""The tables of `ServingCosts`, in the order in which a step adds them up; all but the host's are the forward pass."""


class ServingCosts(Strict):
    """Tables of one engine; a step is the sum of their values at what it has to do.

    A forward pass reads the weights and computes over all scheduled tokens (`tokens`), reads keys and values (`keys`),
    attends (`pairs`), and makes logits for whoever samples (`sampled`). Attention follows the sums over the batch, not
    the shape of the batch: an engine's kernel takes decode and prefill in one call.
    """

    engine: str
    """Which engine, and its version."""
    host: CostTable
    """Scheduling, preparing inputs and taking in outputs, over the requests of the batch."""
    tokens: CostTable
    """Over the scheduled tokens of all requests."""
    keys: CostTable
    """Over the tokens whose keys and values are read, each request's counted once."""
    pairs: CostTable
    """Over pairs of a query and a key that it attends to."""
    sampled: CostTable
    """Over the requests that sample a token."""
    step_residuals_frac: Row[float] = ()
    """Evenly spaced quantiles, from the least to the greatest, of measured / predicted - 1 of complete steps."""
    error_frac: Annotated[NonNegativeFloat, Field(lt=1)] = 0.0
    """What the time of a run may be off to either side however long it is: 90% of held-out rounds were nearer."""
    part_error_frac: Annotated[NonNegativeFloat, Field(lt=1)] = 0.0
    """What the time of `part_s` may be off besides, to either side; it averages out over more of them."""
    part_s: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _has_one_column(self) -> ServingCosts:
        wide = [name for name, table in self.tables().items() if len(table.columns) > 1]
        if wide:
            raise ValueError(f"{wide[0]}: a table of one column; the cost of a step is a sum, not a product")
        return self

    @property
    def mean_spread(self) -> float:
        """How long steps take in the mean, over what the tables say: a few take far longer, hardly any much less."""
        residuals = np.array(self.step_residuals_frac or (0.0,))
        return 1.0 + float(np.mean((residuals[1:] + residuals[:-1]) / 2 if residuals.size > 1 else residuals))

    def steps_s(self, amounts: FloatArray) -> FloatArray:
        """Return what the tables say of many steps, without their spread.

        Parameters
        ----------
        amounts
            Of each step what each table counts, ``[num_steps, len(PARTS)]``.
        """
        columns = [table.times_s(amounts[:, place]) for place, table in enumerate(self.tables().values())]
        total_s: FloatArray = np.sum(columns, axis=0)
        return total_s

    def run_error_frac(self, run_s: float) -> float:
        """Return what the time of all steps of a run this long may be off to either side, with 90% confidence."""
        parts = max(run_s / self.part_s, 1.0) if self.part_s else 1.0
        return math.hypot(self.error_frac, self.part_error_frac / math.sqrt(parts))

    def tables(self) -> dict[str, CostTable]:
        """Return the tables by name."""
        return {name: getattr(self, name) for name in PARTS}
