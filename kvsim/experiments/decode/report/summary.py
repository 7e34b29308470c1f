"""From the rows of a run to the figures of its cell: the names in ``summary.json`` are a contract."""

from __future__ import annotations

import numpy as np

from kvsim.experiments.decode.entry import RowFigures
from kvsim.report.applies import mean, ratio
from kvsim.types import Rows

COUNTED = ("selected", "hits", "misses", "prefetched", "used", "wasted", "evicted", "to_device_bytes", "to_host_bytes")
"""Columns of counts that must be equal, between repeats, and simulated and measured; `late` depends on time."""


def cell_figures(rows: Rows, *, batch: int, holds_everything: bool) -> RowFigures:
    """Return the figures of one cell from its rows, warm-up steps left out.

    What does not apply is None: a policy that keeps everything has no hit rate, one that fetches nothing early neither
    precision nor recall of prefetches. Precision is ``used / (used + wasted)`` over the prefetches resolved in the
    counted steps.

    Examples
    --------
    >>> rows = {"is_warmup": np.array([True, False]), "step_s": np.array([9.0, 0.5]), "stall_s": np.array([0.0, 0.1])}
    >>> rows |= {n: np.array([0, 1]) for n in ("hits", "misses", "late", "prefetched", "used", "wasted", "digest")}
    >>> rows |= {"to_device_bytes": np.array([0, 8]), "to_host_bytes": np.array([0, 0])}
    >>> rows |= {"mass_recall_frac": np.array([1.0, 1.0])}
    >>> cell_figures(rows, batch=1, holds_everything=False)["tpot_p50_s"]
    0.5
    """
    counted = ~rows["is_warmup"]
    step_s = rows["step_s"][counted]
    total = {
        name: int(rows[name][counted].sum())
        for name in ("hits", "misses", "late", "prefetched", "used", "wasted", "to_device_bytes", "to_host_bytes")
    }
    paged = not holds_everything
    prefetches = paged and bool(rows["prefetched"].any())
    return {
        "tpot_p50_s": float(np.percentile(step_s, 50)),
        "tpot_p95_s": float(np.percentile(step_s, 95)),
        "tpot_mean_s": float(step_s.mean()),
        "tokens_per_s": float(batch / step_s.mean()),
        "stall_frac": ratio(float(rows["stall_s"][counted].sum()), float(step_s.sum())),
        "hit_frac": ratio(total["hits"], total["hits"] + total["misses"]) if paged else None,
        "prefetch_precision_frac": ratio(total["used"], total["used"] + total["wasted"]) if prefetches else None,
        "prefetch_recall_frac": ratio(total["used"], total["used"] + total["misses"]) if prefetches else None,
        "moved_bytes": total["to_device_bytes"] + total["to_host_bytes"],
        "moved_bytes_per_token": (total["to_device_bytes"] + total["to_host_bytes"]) / (batch * step_s.size),
        "mass_recall_frac": mean(rows["mass_recall_frac"][counted]),
        "hits": total["hits"],
        "misses": total["misses"],
        "late": total["late"],
        "prefetched": total["prefetched"],
        "used": total["used"],
        "wasted": total["wasted"],
        "digest": int(np.bitwise_xor.reduce(rows["digest"].astype(np.int64))),
    }
