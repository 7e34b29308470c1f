"""A generator compared with the trace it was fitted to: the statistics it misses, and the effect on hit rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvsim.caches import miss_curve
from kvsim.experiments.decode.cells import Cell
from kvsim.experiments.decode.miss_curve import page_accesses
from kvsim.report.trace_table import statistics_text
from kvsim.scenario.decode import SelectorChoice
from kvsim.traces.access.base import AccessSource
from kvsim.traces.access.compare import ComparedStatistic, compare_statistics
from kvsim.traces.access.statistics import measure_statistics
from kvsim.traces.generator.generate import SyntheticSource
from kvsim.traces.generator.parameters import GeneratorParameters
from kvsim.traces.generator.recall import recall_at
from kvsim.types import pages_of

BUDGET_FRACS = (0.15, 0.3, 0.6)
"""Budgets at which hit rates are compared, as shares of all pages."""
MAX_SHARE_DIFFERENCE = 0.05
"""A share further off than this is missed."""
MAX_COUNT_RATIO = 1.25
"""A count of pages that is so many times another is missed."""
_CHOSEN_FRAC = 0.05
"""Part of a layer's pages that attention reads by score where hit rates are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HitRates:
    """Hits of LRU at one budget, over the trace and over what was generated."""

    budget_frac: float
    trace_frac: float
    generated_frac: float


def missed(rows: Sequence[ComparedStatistic]) -> list[ComparedStatistic]:
    """Return the statistics that the generator misses: shares by more than 5 points, counts by more than a quarter."""
    return [row for row in rows if _is_missed(row)]


def hit_rates(
    trace: AccessSource, parameters: GeneratorParameters, num_steps: int, *, seed: int = 1
) -> tuple[HitRates, ...]:
    """Return the hit rates of LRU on a trace and on accesses generated at its length, at `BUDGET_FRACS`.

    A layer reads a twentieth of its pages by the parameters' channel besides the first one and the last 128 tokens'.
    """
    page_tokens = parameters.page_tokens
    made = SyntheticSource(parameters, context_tokens=parameters.context_tokens, num_steps=num_steps, seed=seed)
    num_pages = pages_of(parameters.context_tokens + num_steps, page_tokens)
    choice = SelectorChoice(
        name="top-k",
        k_pages=max(1, round(_CHOSEN_FRAC * num_pages)),
        sink_pages=1,
        recent_pages=max(1, 128 // page_tokens),
        channel=parameters.channel or "mass",
    )
    curves = [miss_curve(page_accesses(source, page_tokens, choice)).miss_frac for source in (trace, made)]
    slots = [round(frac * num_pages * trace.num_layers * trace.num_sequences) for frac in BUDGET_FRACS]
    own, generated = ([1 - float(curve[min(slot, len(curve) - 1)]) for slot in slots] for curve in curves)
    return tuple(
        HitRates(budget_frac=frac, trace_frac=trace_frac, generated_frac=generated_frac)
        for frac, trace_frac, generated_frac in zip(BUDGET_FRACS, own, generated, strict=True)
    )


def recall_bias_frac(cell: Cell, parameters: GeneratorParameters) -> float | None:
    """Return how much more of the mass than the trace the generator keeps, at what the cell's selector reads.

    None where everything is read, or the parameters were stated and never held against a trace.
    """
    scenario = cell.scenario
    if scenario.selector.name == "full" or scenario.selector.k_pages is None or not parameters.recall:
        return None
    return recall_at(parameters.recall, scenario.selector.k_pages).bias_frac


def fit_text(trace: AccessSource, parameters: GeneratorParameters) -> str:
    """Return the statistics of a trace and of its generator, and the effect of the difference."""
    page_tokens, num_steps = parameters.page_tokens, trace.num_steps
    made = SyntheticSource(parameters, context_tokens=parameters.context_tokens, num_steps=num_steps, seed=1)
    channels = [parameters.channel] if parameters.channel else []
    real, generated = (measure_statistics(source, page_tokens, channels=channels) for source in (trace, made))
    lines = [statistics_text(real, generated), ""]
    for row in missed(compare_statistics(real, generated)):
        lines.append(
            f"The generator misses {row.statistic}: {_figure(row.real)} in the trace, {_figure(row.synthetic)}."
        )
    for rates in hit_rates(trace, parameters, num_steps):
        lines.append(
            f"Hits of `lru` at {rates.budget_frac:.0%} of the pages: {rates.trace_frac:.1%} of the trace, "
            f"{rates.generated_frac:.1%} generated ({100 * (rates.generated_frac - rates.trace_frac):+.1f} points)."
        )
    biases = ", ".join(f"{100 * recall.bias_frac:+.1f} with {recall.k_pages}" for recall in parameters.recall)
    lines.append(f"Attention recall, generated less the trace's, in points by pages chosen: {biases}.")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"


def _is_missed(row: ComparedStatistic) -> bool:
    if not (np.isfinite(row.real) and np.isfinite(row.synthetic)):
        return False
    if row.statistic.endswith("_frac"):
        return abs(row.difference) > MAX_SHARE_DIFFERENCE
    low, high = sorted((row.real, row.synthetic))
    return high > MAX_COUNT_RATIO * low
