"""Checks a generator by its statistics: what the real trace has, what the generated one has, and the difference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvsim.errors import TraceError
from kvsim.traces.access.statistics import TraceStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedStatistic:
    """One statistic of two traces, averaged over layers; nan where it says nothing."""

    statistic: str
    real: float
    synthetic: float
    difference: float
    """Synthetic less real."""
    layer_difference: float
    """Mean absolute difference layer by layer; nan where the two have another number of layers."""


def compare_statistics(real: TraceStatistics, synthetic: TraceStatistics) -> list[ComparedStatistic]:
    """Return a row for every statistic that both have, in the order of `TraceStatistics.by_layer`.

    Raises
    ------
    TraceError
        If they were measured with pages of another size.
    """
    if real.page_tokens != synthetic.page_tokens:
        raise TraceError(
            "statistics", f"pages of {real.page_tokens} and of {synthetic.page_tokens} tokens cannot be compared"
        )
    real_rows, synthetic_rows = real.by_layer(), synthetic.by_layer()
    real_means, synthetic_means = real.averages(), synthetic.averages()
    rows = []
    for name in real_rows:
        if name not in synthetic_rows:
            continue
        apart = np.full(1, np.nan)
        if real.num_layers == synthetic.num_layers:
            apart = np.abs(real_rows[name] - synthetic_rows[name])
        known = apart[np.isfinite(apart)]
        rows.append(
            ComparedStatistic(
                statistic=name,
                real=real_means[name],
                synthetic=synthetic_means[name],
                difference=synthetic_means[name] - real_means[name],
                layer_difference=float(known.mean()) if known.size else float("nan"),
            )
        )
    return rows
