"""Which value of a field reaches a figure: searched by halving, between the values that can be simulated at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvsim.errors import KvsimError, ScenarioError
from kvsim.experiments.decode.simulate import simulate
from kvsim.experiments.decode.sweep.whatif import Origin, applied, check_unchanged, origin_of
from kvsim.experiments.types import Job
from kvsim.profile.hypothetical import is_profile_change
from kvsim.report.results import RunResult
from kvsim.scenario.decode import Scenario
from kvsim.scenario.toml import field_types
from kvsim.types import UNIT_TOKENS

CLOSE = 1.005
"""Two values that are as near as this factor are neighbours, where a field is no whole number."""
PROBES = 9
"""Values tried between two bounds neither of which can be simulated."""
_DIGITS = 4
"""Significant digits of the values tried: what is found can be copied as it is printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Which value of a field reaches a figure, for one policy."""

    policy: str
    tried: tuple[tuple[float, float | None], ...]
    """Values in the order of size, each with the figure; None where it cannot be simulated."""
    reached: float | None
    """The value nearest the other end that still reaches it; None where neither end does."""
    missed: float | None
    """The next value tried that does not, or cannot be simulated; None where all do, or none."""
    low: float | None
    """The least value that can be simulated, as far as was tried; None where none can."""
    high: float | None


def reach(
    result: RunResult, figure: str, most: float, key: str, low: float, high: float, *, changes: Sequence[str] = ()
) -> list[Reached]:
    """Return, for each policy, from which value of `key` between two bounds `figure` is at most `most`.

    First the values that can be simulated are bounded: a budget below the minimum is no answer, and does not end the
    search. Between a value that reaches the figure and one that does not, the interval is then halved (in the
    logarithm) until the two are neighbours, for a whole number, or 0.5% apart. That all values beyond reach it too is
    not tried.

    Parameters
    ----------
    key
        A field of the scenario with one number, or a change of the profile by a factor.
    changes
        ``KEY=VALUE`` to apply first; no field may be swept besides `key`.

    Raises
    ------
    KvsimError
        If more than one cell of a policy is left, a bound or the figure is no number, there is no such figure, or a
        file that the result was made from has changed.
    """
    origin = origin_of(result)
    _check_bounds(figure, most, key, low, high)
    scenario, _ = applied(origin, [*changes, _change(key, low)])
    check_unchanged(result, origin, scenario)
    if scenario.sweep:
        raise ScenarioError(f"whatif: {', '.join(scenario.sweep)} vary; --set each to one value to search over {key}")
    step = _step(key)
    return [
        _Search(_asking(origin, changes, key, figure, place), most, step).between(choice.shown, low, high)
        for place, choice in enumerate(scenario.run.policies)
    ]


def value_text(value: float, *, is_whole: bool) -> str:
    """Return a value as a person copies it into ``--set``: whole numbers whole, others with all their digits.

    Examples
    --------
    >>> value_text(5e9, is_whole=True), value_text(0.2167, is_whole=False)
    ('5000000000', '0.2167')
    """
    return str(round(value)) if is_whole else repr(float(value))


def is_whole(key: str) -> bool:
    """Return whether a field takes whole numbers only."""
    types = set() if is_profile_change(key) else field_types(Scenario, key)
    return int in types and float not in types


def _check_bounds(figure: str, most: float, key: str, low: float, high: float) -> None:
    if not math.isfinite(most):
        raise ScenarioError(f"whatif: {figure} of at most {most:g}: should be a finite number")
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low < high):
        raise ScenarioError(f"whatif: bounds of {key} should be LOW:HIGH with 0 < LOW < HIGH, found {low:g}:{high:g}")
    if is_whole(key) and not (float(low).is_integer() and float(high).is_integer()):
        raise ScenarioError(f"whatif: bounds of {key} should be whole numbers, found {low!r}:{high!r}")


def _step(key: str) -> int | None:
    """Return by what values of a field differ at least; None where they are no whole numbers."""
    if key == "page_tokens":
        return UNIT_TOKENS
    return 1 if is_whole(key) else None


def _change(key: str, value: float) -> str:
    text = value_text(value, is_whole=is_whole(key))
    return f"{key}=x{text}" if is_profile_change(key) else f"{key}={text}"


def _asking(
    origin: Origin, changes: Sequence[str], key: str, figure: str, place: int
) -> Callable[[float], float | None]:
    def ask(value: float) -> float | None:
        try:
            scenario, change = applied(origin, [*changes, _change(key, value)])
            alone = scenario.run.model_copy(update={"policies": (scenario.run.policies[place],)})
            single = scenario.model_copy(update={"run": alone})
            cell = simulate(single, Job(base_dir=origin.base_dir), change_profile=change).summary["cells"][0]
        except ScenarioError:
            raise
        except KvsimError:  # a budget below the minimum, a page size without a cost
            return None
        if figure not in cell:
            raise ScenarioError(f"whatif: no figure {figure!r} in a summary, as tpot_p50_s, stall_frac, device_bytes")
        value_there = cell[figure]
        return None if value_there is None else float(value_there)

    return ask


@dataclass(slots=True)
class _Search:
    """One search for one policy."""

    ask: Callable[[float], float | None]
    most: float
    step: int | None
    tried: dict[float, float | None] = field(default_factory=dict)

    def between(self, policy: str, low: float, high: float) -> Reached:
        """Return what is found between two bounds."""
        inside = self._inside(low, high)
        if inside is None:
            return self._reached(policy, None, None, None)
        ends = self._bound(low, inside), self._bound(high, inside)
        first, last = ends[0][0], ends[1][0]
        meets = self._meets(first), self._meets(last)
        if meets[0] != meets[1]:
            good, bad = (first, last) if meets[0] else (last, first)
            return self._reached(policy, *self._halve(good, bad, self._meets), (first, last))
        if not meets[0]:
            return self._reached(policy, None, None, (first, last))
        reached, missed = next((end for end in ends if end[1] is not None), ends[0])
        return self._reached(policy, reached, missed, (first, last))

    def _inside(self, low: float, high: float) -> float | None:
        """Return a value that can be simulated."""
        probes = [self._rounded(low * (high / low) ** (place / (PROBES + 1))) for place in range(1, PROBES + 1)]
        candidates = [low, high, *(value for value in probes if low < value < high)]
        return next((value for value in candidates if self._runs(value)), None)

    def _bound(self, end: float, inside: float) -> tuple[float, float | None]:
        """Return the value nearest `end` that can be simulated, and its neighbour that cannot, if any."""
        if self._runs(end):
            return end, None
        return self._halve(inside, end, self._runs)

    def _halve(self, good: float, bad: float, is_good: Callable[[float], bool]) -> tuple[float, float]:
        while (middle := self._middle(good, bad)) is not None:
            good, bad = (middle, bad) if is_good(middle) else (good, middle)
        return good, bad

    def _middle(self, first: float, second: float) -> float | None:
        low, high = min(first, second), max(first, second)
        if self.step is None and high / low <= CLOSE:
            return None
        middle = self._rounded((low * high) ** 0.5)
        if self.step is not None:
            middle = min(max(middle, low + self.step), high - self.step)
        return middle if low < middle < high else None

    def _rounded(self, value: float) -> float:
        if self.step is not None:
            return float(round(value / self.step) * self.step)
        return float(f"{value:.{_DIGITS}g}")

    def _figure(self, value: float) -> float | None:
        if value not in self.tried:
            self.tried[value] = self.ask(value)
        return self.tried[value]

    def _runs(self, value: float) -> bool:
        return self._figure(value) is not None

    def _meets(self, value: float) -> bool:
        figure = self._figure(value)
        return figure is not None and figure <= self.most

    def _reached(
        self, policy: str, reached: float | None, missed: float | None, ends: tuple[float, float] | None
    ) -> Reached:
        tried = tuple(sorted(self.tried.items()))
        first, last = ends if ends is not None else (None, None)
        return Reached(policy=policy, tried=tried, reached=reached, missed=missed, low=first, high=last)
