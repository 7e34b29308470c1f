"""The compute stream: executes what was launched, in order, never before it was launched."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import simpy

from kvsim.profile.profile import SEGMENTS
from kvsim.sim.clock import BusyClock, Process, stretched
from kvsim.sim.timeline import Place, Timeline


@dataclass(slots=True, eq=False)
class Work:
    """One launched segment: ``end = max(start + device_s, host_end_s + tail_s)``."""

    segment: str
    device_s: float
    launch_s: float
    host_end_s: float
    tail_s: float
    waits_for: tuple[simpy.Event, ...]
    """Copies that must have arrived."""
    place: Place
    copies: BusyClock
    """The copies that slow it down: those to the device that it runs on."""
    end_s: float | None = None
    """When it ends, once that is known."""
    done: simpy.Event | None = None
    """Made for whoever waits; see `ComputeStream.end_of`."""


@dataclass(slots=True)
class Parts:
    """Where the compute stream's time went since the last reading; the parts add up to the time that passed."""

    segments_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SEGMENTS, 0.0))
    stall_s: float = 0.0
    """Waited for pages, and for nothing else."""
    host_s: float = 0.0
    """Idle because the host was late: launches, synchronisations, decisions."""


class ComputeStream:
    """The queue of launched work and the time it is done.

    Work that waits for no copy, on a machine whose copies do not slow compute down, ends at a time that is known as
    soon as the work before it is: no event is spent on it. The others run as a SimPy process.
    """

    def __init__(
        self,
        env: simpy.Environment,
        slowdown_frac: float,
        timeline: Timeline | None = None,
    ) -> None:
        self._env = env
        self._timeline = timeline
        self._slowdown_frac = slowdown_frac
        self._queue: deque[Work] = deque()
        self._is_serving = False
        self._free_s = env.now
        self.parts = Parts()

    def put(self, work: Work) -> None:
        """Queue one segment behind the others; returns at once."""
        if self._is_serving:
            self._queue.append(work)
        elif self._is_prediction(work):
            self._predict(work)
        else:
            self._queue.append(work)
            self._is_serving = True
            self._env.process(self._serve())

    def end_of(self, work: Work) -> simpy.Event | None:
        """Return an event that fires when `work` ends; None where it has ended."""
        if work.end_s is None:
            work.done = work.done or self._env.event()
            return work.done
        return self._env.timeout(work.end_s - self._env.now) if work.end_s > self._env.now else None

    def execute(self, work: Work) -> Process[None]:
        """Run one segment from now on and account for the time since the one before."""
        env, parts, free_s = self._env, self.parts, self._free_s
        ready_s = max(free_s, work.launch_s)
        if env.now < ready_s:
            yield env.timeout(ready_s - env.now)
        parts.host_s += ready_s - free_s
        for event in work.waits_for:
            if not event.processed:
                yield event
        start_s = env.now
        parts.stall_s += start_s - ready_s
        yield from stretched(env, work.device_s, self._slowdown_frac, work.copies)
        busy_s = env.now
        parts.segments_s[work.segment] += busy_s - start_s
        late_s = work.host_end_s + work.tail_s - env.now
        if late_s > 0:
            yield env.timeout(late_s)
            parts.host_s += late_s
        if self._timeline is not None:
            self._timeline.computed(work.segment, work.place, free_s, ready_s, start_s, busy_s, env.now)
        self._end(work, env.now)

    def read_parts(self) -> Parts:
        """Return the parts since the last reading and begin anew."""
        parts, self.parts = self.parts, Parts()
        return parts

    def _is_prediction(self, work: Work) -> bool:
        return self._slowdown_frac == 0.0 and all(event.processed for event in work.waits_for)

    def _predict(self, work: Work) -> None:
        """Account for work whose copies are there: it starts when the stream is free and it is launched."""
        parts, free_s = self.parts, self._free_s
        ready_s = max(free_s, work.launch_s)
        parts.host_s += ready_s - free_s
        busy_s = ready_s + work.device_s
        parts.segments_s[work.segment] += work.device_s
        end_s = max(busy_s, work.host_end_s + work.tail_s)
        parts.host_s += end_s - busy_s
        if self._timeline is not None:
            self._timeline.computed(work.segment, work.place, free_s, ready_s, ready_s, busy_s, end_s)
        self._end(work, end_s)

    def _end(self, work: Work, end_s: float) -> None:
        work.end_s = self._free_s = end_s
        if work.done is not None:
            _fire(self._env, work.done, end_s)

    def _serve(self) -> Process[None]:
        while self._queue:
            work = self._queue.popleft()
            if self._is_prediction(work):
                self._predict(work)
            else:
                yield from self.execute(work)
        self._is_serving = False


def _fire(env: simpy.Environment, event: simpy.Event, at_s: float) -> None:
    """Let `event` fire at a time that may lie ahead."""
    if at_s <= env.now:
        event.succeed()
    else:
        env.timeout(at_s - env.now).callbacks.append(lambda _: _succeed(event))


def _succeed(event: simpy.Event) -> None:
    event.succeed()
