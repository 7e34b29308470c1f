"""Figures of a cell over many draws: each with a spread of steps of its own, and costs somewhere in their interval.

Which requests share a batch depends on when single steps end, so one run is one of many: at 120 requests percentiles of
two draws differ by some per cent. An engine that is measured is run several times for the same reason.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from kvsim.experiments.serving.costs import Platform, interval_frac
from kvsim.experiments.serving.run import FIGURES, CellRun, run_cell
from kvsim.experiments.serving.scenario import Serving
from kvsim.experiments.serving.traffic import Traffic

NUM_DRAWS = 41

_EDGE = NormalDist().inv_cdf(0.95)
"""Standard deviations from the middle of a 90% interval to its edge."""


def drawn_figures(
    scenario: Serving, traffic: Traffic, platform: Platform, run: CellRun
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return the median of each figure over the draws, and where nine of ten draws lie.

    Parameters
    ----------
    run
        The cell served on the costs as they are, for the time of each part.
    """
    low_frac, high_frac = interval_frac(platform.costs, run.parts_s)
    draws = [
        run_cell(scenario, traffic, platform, scale=scale, draw=number).figures
        for number, scale in enumerate(_scales(low_frac, high_frac))
    ]
    names = [name for name in FIGURES if name in run.figures and np.isfinite(run.figures[name])]
    values = {name: [draw[name] for draw in draws] for name in names}
    medians = {name: float(np.median(drawn)) for name, drawn in values.items()}
    intervals = {name: tuple(np.quantile(drawn, [0.05, 0.95]).tolist()) for name, drawn in values.items()}
    return medians, intervals


def _scales(low_frac: float, high_frac: float) -> list[float]:
    """Return evenly likely factors of the time of steps: 5% lie beyond either edge, none below zero."""
    deviations = [NormalDist().inv_cdf((number + 0.5) / NUM_DRAWS) / _EDGE for number in range(NUM_DRAWS)]
    return [(1 + high_frac) ** by if by > 0 else (1 + low_frac) ** -by for by in deviations]
