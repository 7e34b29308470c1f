"""Latency and throughput of served requests, simulated or measured: rows by request, and the figures of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.experiments.serving.scenario import Slo
from kvsim.types import BoolArray, FloatArray, IntArray

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
LATENCIES = ("ttft", "tpot", "itl", "e2e", "queue")
TIMES = tuple(f"{name}_{figure}_s" for name in LATENCIES for figure in ("mean", *QUANTILES))
"""Names of the figures of latency."""
RATES = ("requests_hz", "output_tokens_per_s", "tokens_per_s", "goodput_hz")
"""Names of the figures of throughput."""


def request_rows(
    *,
    arrival_s: FloatArray,
    scheduled_s: FloatArray,
    first_token_s: FloatArray,
    last_token_s: FloatArray,
    prompt_tokens: IntArray,
    output_tokens: IntArray,
) -> dict[str, NDArray[Any]]:
    """Return the latencies of each request as columns.

    TPOT is the mean time between the tokens of one request, NaN for a request of one token; the queue is the time until
    its first token is scheduled.
    """
    many = output_tokens > 1
    tpot_s = np.full(arrival_s.size, np.nan)
    tpot_s[many] = (last_token_s - first_token_s)[many] / (output_tokens[many] - 1)
    return {
        "arrival_s": arrival_s,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "queue_s": scheduled_s - arrival_s,
        "ttft_s": first_token_s - arrival_s,
        "tpot_s": tpot_s,
        "e2e_s": last_token_s - arrival_s,
    }


def latency_figures(
    rows: Mapping[str, NDArray[Any]], gap_s: FloatArray, gap_counts: IntArray, slo: Slo | None
) -> dict[str, float]:
    """Return the figures of one cell.

    Throughput is over the time from the first arrival to the last token, goodput the share of it that met the SLO.

    Parameters
    ----------
    gap_s, gap_counts
        Times between tokens in increasing order, and how often each occurred.
    """
    figures: dict[str, float] = {}
    for name in LATENCIES:
        if name == "itl":
            figures |= _weighted_figures(name, gap_s, gap_counts)
        else:
            figures |= _figures(name, rows[f"{name}_s"])
    arrival_s = rows["arrival_s"]
    duration_s = float((arrival_s + rows["e2e_s"]).max() - arrival_s.min())
    outputs, prompts = int(rows["output_tokens"].sum()), int(rows["prompt_tokens"].sum())
    figures |= {
        "duration_s": duration_s,
        "requests_hz": arrival_s.size / duration_s,
        "output_tokens_per_s": outputs / duration_s,
        "tokens_per_s": (prompts + outputs) / duration_s,
    }
    met = meets(rows, slo)
    if met is not None:
        figures |= {"met_frac": float(met.mean()), "goodput_hz": float(met.sum()) / duration_s}
    return figures


def meets(rows: Mapping[str, NDArray[Any]], slo: Slo | None) -> BoolArray | None:
    """Return which requests met all limits; None without an SLO. A request of one token has no TPOT to miss."""
    if slo is None:
        return None
    met = np.ones(rows["arrival_s"].size, dtype=bool)
    for name in ("ttft_s", "tpot_s", "e2e_s"):
        limit_s = getattr(slo, name)
        if limit_s is not None:
            met &= ~(rows[name] > limit_s)
    return met


def _figures(name: str, values_s: FloatArray) -> dict[str, float]:
    known = values_s[~np.isnan(values_s)]
    if not known.size:
        return dict.fromkeys((f"{name}_{figure}_s" for figure in ("mean", *QUANTILES)), float("nan"))
    quantiles = np.quantile(known, list(QUANTILES.values()))
    named = {f"{name}_{figure}_s": float(value) for figure, value in zip(QUANTILES, quantiles, strict=True)}
    return {f"{name}_mean_s": float(known.mean()), **named}


def _weighted_figures(name: str, values_s: FloatArray, counts: IntArray) -> dict[str, float]:
    if not values_s.size:
        return _figures(name, values_s)
    ends = np.cumsum(counts)
    named = {
        f"{name}_{figure}_s": float(values_s[np.searchsorted(ends, quantile * ends[-1])])
        for figure, quantile in QUANTILES.items()
    }
    return {f"{name}_mean_s": float(np.average(values_s, weights=counts)), **named}
