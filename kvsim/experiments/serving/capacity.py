"""The highest rate that meets the SLO of a scenario, by bisection with the same random numbers at every rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from kvsim.errors import ScenarioError
from kvsim.experiments.serving.costs import interval_frac, platform_of
from kvsim.experiments.serving.run import CellRun, run_cell
from kvsim.experiments.serving.scenario import Serving
from kvsim.experiments.serving.traffic.make import make_turns, with_times
from kvsim.experiments.serving.traffic.turns import Turns
from kvsim.experiments.types import ignore
from kvsim.profile.serving import ServingCosts

MOST_DOUBLINGS = 12
"""How far from the scenario's own rate the search goes, up and down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One rate that was simulated."""

    rate: float
    met_frac: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The highest rates, and how sure they are."""

    field: str
    """The field of the scenario that sets the rate."""
    rates: tuple[float, ...]
    """The highest rate for each seed."""
    cost_low: float
    """The highest rate, first seed, if every step is as long as the profile's costs may be."""
    cost_high: float
    """The same if every step is as short."""
    points: tuple[Point, ...]
    tolerance_frac: float
    """By how much each rate may be higher still."""

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(np.mean(self.rates))

    @property
    def interval(self) -> tuple[float, float]:
        """A 90% interval of the mean, by the spread over the seeds (Student's t) and the tolerance."""
        if len(self.rates) < 2:
            return 0.0, math.inf
        half = stats.t.ppf(0.95, len(self.rates) - 1) * np.std(self.rates, ddof=1) / math.sqrt(len(self.rates))
        return self.mean - float(half), (self.mean + float(half)) * (1 + self.tolerance_frac)


def find_capacity(
    scenario: Serving,
    base_dir: Path | None,
    *,
    num_seeds: int = 5,
    tolerance_frac: float = 0.02,
    progress: Callable[[float], None] = ignore,
) -> Capacity:
    """Return the highest rate at which the share of requests that `slo` names meets all of its limits.

    Parameters
    ----------
    num_seeds
        Seeds from the scenario's own on: each has its own arrivals, lengths and pauses, the same at every rate.
    tolerance_frac
        A rate is found when the next higher one that was tried and fails is nearer than this.

    Raises
    ------
    ScenarioError
        If the scenario has no SLO, sweeps anything, or the SLO is met at no rate or at every rate within reach.
    """
    search = _Search(scenario, base_dir, tolerance_frac)
    first = scenario.run.seed
    rates: list[float] = []
    for seed in range(first, first + num_seeds):
        rates.append(search.highest(seed, start=rates[0] if rates else None))
        progress(1 / (num_seeds + 2))
    low_frac, high_frac = interval_frac(search.costs, search.run(rates[0], first, 1.0).parts_s)
    edges = [search.highest(first, start=rates[0], scale=1 + share) for share in (high_frac, low_frac)]
    progress(2 / (num_seeds + 2))
    return Capacity(
        field=search.field,
        rates=tuple(rates),
        cost_low=edges[0],
        cost_high=edges[1],
        points=tuple(search.points),
        tolerance_frac=tolerance_frac,
    )


class _Search:
    def __init__(self, scenario: Serving, base_dir: Path | None, tolerance_frac: float) -> None:
        if scenario.slo is None:
            raise ScenarioError(f"{scenario.name}: no [slo]: say what must hold, as in slo.ttft_s = 2.0")
        self.field, self._start = rate_of(scenario)
        fixed = [name for name in scenario.sweep if name != self.field]
        if fixed:
            raise ScenarioError(
                f"{scenario.name}: capacity is searched for one cell: give {fixed[0]} one value (--set)"
            )
        self.points: list[Point] = []
        self._scenario = scenario.model_copy(update={"sweep": {}})
        self._base_dir = base_dir
        self._tolerance_frac = tolerance_frac
        self._platform = platform_of(scenario, base_dir)
        self._goal = scenario.slo.met_frac
        self._turns: dict[int, Turns] = {}

    @property
    def costs(self) -> ServingCosts:
        """What steps cost."""
        return self._platform.costs

    def highest(self, seed: int, *, start: float | None = None, scale: float = 1.0) -> float:
        """Return the highest rate that meets the SLO, by bisection between one that does and one that does not."""
        low, high = self._bracket(seed, start or self._start, scale)
        while high > low * (1 + self._tolerance_frac) and not (self.field == "arrivals.users" and high - low <= 1):
            middle = self._rounded(math.sqrt(low * high))
            if self._meets(middle, seed, scale):
                low = middle
            else:
                high = middle
        return low

    def _bracket(self, seed: int, start: float, scale: float) -> tuple[float, float]:
        """Return a rate that meets the SLO and a higher one that does not."""
        rate = self._rounded(start)
        meets = self._meets(rate, seed, scale)
        for _ in range(MOST_DOUBLINGS):
            following = self._rounded(rate * 2 if meets else rate / 2)
            if following == rate:
                break
            if self._meets(following, seed, scale) != meets:
                return (rate, following) if meets else (following, rate)
            rate = following
        raise ScenarioError(
            f"{self._scenario.name}: the SLO is met for {100 * self._goal:g}% of the requests "
            + (f"even at {self.field} = {rate:g}" if meets else f"not even at {self.field} = {rate:g}")
            + ": there is no highest rate to find; change [slo], or the traffic"
        )

    def _rounded(self, rate: float) -> float:
        return float(max(round(rate), 1)) if self.field == "arrivals.users" else rate

    def _meets(self, rate: float, seed: int, scale: float) -> bool:
        met_frac = float(self.run(rate, seed, scale).figures["met_frac"])
        if scale == 1.0:
            self.points.append(Point(rate=rate, met_frac=met_frac, seed=seed))
        return met_frac >= self._goal

    def run(self, rate: float, seed: int, scale: float) -> CellRun:
        """Simulate one rate."""
        name = self.field.partition(".")[2]
        value = int(rate) if name == "users" else rate
        arrivals = self._scenario.arrivals.model_copy(update={name: value})
        run = self._scenario.run.model_copy(update={"seed": seed})
        cell = self._scenario.model_copy(update={"arrivals": arrivals, "run": run})
        if seed not in self._turns:
            self._turns[seed] = make_turns(cell, self._base_dir)
        traffic = with_times(self._turns[seed], arrivals, seed)
        return run_cell(cell, traffic, self._platform, scale=scale)


def rate_of(scenario: Serving) -> tuple[str, float]:
    """Return the field that sets how fast requests come, and its value: where the search starts."""
    arrivals = scenario.arrivals
    if arrivals.process == "trace":
        return "arrivals.speed", arrivals.speed
    if arrivals.process == "closed-loop":
        return "arrivals.users", float(arrivals.users or 1)
    return "arrivals.rate_hz", float(arrivals.rate_hz or 1.0)
