"""The compute stream: executes what was launched, in order, never before it was launched."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import simpy

from kvsim.hardware import SEGMENTS
from kvsim.sim.clock import BusyClock, Process, stretched


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
    done: simpy.Event


@dataclass(slots=True)
class Parts:
    """Where the compute stream's time went since the last reading; the parts add up to the time that passed."""

    segments_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SEGMENTS, 0.0))
    stall_s: float = 0.0
    """Waited for pages, and for nothing else."""
    host_s: float = 0.0
    """Idle because the host was late: launches, synchronisations, decisions."""


class ComputeStream:
    """A process over a queue of `Work`; on a synchronous machine the host runs each piece itself."""

    def __init__(self, env: simpy.Environment, slowdown_frac: float, copies: BusyClock) -> None:
        self._env = env
        self._slowdown_frac = slowdown_frac
        self._copies = copies
        self._queue: deque[Work] = deque()
        self._wake: simpy.Event = env.event()
        self._free_s = env.now
        self.parts = Parts()

    def start(self) -> None:
        """Begin to serve the queue, for a machine on which launches return at once."""
        self._env.process(self._serve())

    def put(self, work: Work) -> None:
        """Queue one segment."""
        self._queue.append(work)
        if not self._wake.triggered:
            self._wake.succeed()

    def _serve(self) -> Process[None]:
        while True:
            while not self._queue:
                self._wake = self._env.event()
                yield self._wake
            work = self._queue.popleft()
            yield from self.execute(work)

    def execute(self, work: Work) -> Process[None]:
        """Run one segment from now on and account for the time since the one before."""
        env, parts = self._env, self.parts
        ready_s = max(self._free_s, work.launch_s)
        if env.now < ready_s:
            yield env.timeout(ready_s - env.now)
        parts.host_s += ready_s - self._free_s
        for event in work.waits_for:
            if not event.processed:
                yield event
        start_s = env.now
        parts.stall_s += start_s - ready_s
        yield from stretched(env, work.device_s, self._slowdown_frac, self._copies)
        parts.segments_s[work.segment] += env.now - start_s
        late_s = work.host_end_s + work.tail_s - env.now
        if late_s > 0:
            yield env.timeout(late_s)
            parts.host_s += late_s
        self._free_s = env.now
        work.done.succeed()

    def read_parts(self) -> Parts:
        """Return the parts since the last reading and begin anew."""
        parts, self.parts = self.parts, Parts()
        return parts
