"""How long a player was busy, and how work stretches while another is: the interference of copies and compute."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

import simpy
from simpy import Environment as Environment
from simpy import Event as Event

_T = TypeVar("_T")

Process: TypeAlias = Generator[simpy.Event, object, _T]
"""A simulated activity that ends in a `_T`."""


class BusyClock:
    """Adds up the time in which one player is busy."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._total_s = 0.0
        self._since_s: float | None = None

    def start(self) -> None:
        """Begin a busy time."""
        self._since_s = self._env.now

    def stop(self) -> None:
        """End the busy time."""
        if self._since_s is not None:
            self._total_s += self._env.now - self._since_s
            self._since_s = None

    def busy_s(self) -> float:
        """Return the busy time so far."""
        running_s = 0.0 if self._since_s is None else self._env.now - self._since_s
        return self._total_s + running_s


def stretched(env: simpy.Environment, work_s: float, slowdown_frac: float, other: BusyClock) -> Process[None]:
    r"""Pass the time of `work_s` seconds of work that takes ``1 + slowdown_frac`` as long while `other` is busy.

    Time T is the fixed point :math:`T = w + g\,O(T)`, where O is how long the other was busy within T and
    :math:`g = f / (1 + f)`; it is approached from below, waiting each time for what is still missing.
    """
    if slowdown_frac == 0.0:
        yield env.timeout(work_s)
        return
    lost_frac = slowdown_frac / (1 + slowdown_frac)
    seen_s = other.busy_s()
    missing_s = work_s
    while missing_s > 1e-9 * work_s:
        yield env.timeout(missing_s)
        busy_s = other.busy_s()
        missing_s = lost_frac * (busy_s - seen_s)
        seen_s = busy_s
