"""The one form that every estimated kernel time has."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat

from kvsim.scenario.toml import Strict


class Roofline(Strict):
    """A few numbers that carry from card to card: fixed times and the shares of a data sheet that kernels reach."""

    overhead_s: NonNegativeFloat
    """Time that a kernel takes however little it does."""
    unit_s: NonNegativeFloat = 0.0
    """Time for each part that is started apart: in decode attention, a KV head of a sequence."""
    bandwidth_frac: PositiveFloat
    """Share of the card's memory bandwidth."""
    rate_frac: PositiveFloat
    """Share of the card's dense matrix rate."""

    def time_s(
        self, moved_bytes: Any, flop: Any, bandwidth_bytes_per_s: Any, rate_flop_per_s: Any, units: Any = 0
    ) -> Any:
        r"""Return the seconds of one kernel, for numbers or for arrays.

        .. math:: t = a + u n + \sqrt{(bytes / (e_b B))^2 + (flop / (e_f R))^2}

        The root is the smooth form of the larger of the two: where they are equal, kernels take about 1.4 times as
        long as either, which the tables show and a plain maximum misses by a quarter.

        Examples
        --------
        >>> kernel = Roofline(overhead_s=4e-6, bandwidth_frac=0.8, rate_frac=0.8)
        >>> round(float(kernel.time_s(8e6, 0.0, bandwidth_bytes_per_s=1e12, rate_flop_per_s=1e14)), 9)
        1.4e-05
        """
        memory_s = moved_bytes / (self.bandwidth_frac * bandwidth_bytes_per_s)
        compute_s = flop / (self.rate_frac * rate_flop_per_s)
        return self.overhead_s + self.unit_s * units + np.hypot(memory_s, compute_s)
