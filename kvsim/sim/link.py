"""A link: one transfer at a time, demand before prefetch among those that may start. Whatever copies is made of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import simpy

from kvsim.sim.clock import BusyClock, Process, stretched
from kvsim.sim.timeline import Place


@dataclass(slots=True, eq=False)
class Transfer:
    """What travels together; `done` fires when all of it has arrived."""

    size: int
    """In what the link's cost counts: pages, or rows."""
    is_demand: bool
    done: simpy.Event
    after: tuple[simpy.Event, ...] = ()
    """What must have happened before the copy may start: readers and write-backs of the slots it fills."""
    issued_s: float = field(default=0.0)
    place: Place | None = None
    """For the timeline; None where none is kept."""


class Link:
    """One direction of a link, as a process that serves its queue until the simulation ends.

    An idle link takes the oldest demand that may start, else the oldest prefetch. Where it keeps order, what was
    submitted runs in that order, whatever it is.

    Parameters
    ----------
    cost_s
        Returns the seconds of a transfer of some size over the idle link.
    busy
        Becomes busy while a transfer runs.
    slowdown_frac, other
        How much longer a transfer takes while `other` is busy too.
    log
        Called with each transfer that has arrived, and when it started.
    """

    def __init__(
        self,
        env: simpy.Environment,
        cost_s: Callable[[int], float],
        *,
        keeps_order: bool = False,
        busy: BusyClock | None = None,
        slowdown_frac: float = 0.0,
        other: BusyClock | None = None,
        log: Callable[[Transfer, float], None] | None = None,
    ) -> None:
        self._env = env
        self._cost_s = cost_s
        self._keeps_order = keeps_order
        self.busy = busy or BusyClock(env)
        self._slowdown_frac = slowdown_frac if other is not None else 0.0
        self._other = other or self.busy
        self._log = log
        self._demand: deque[Transfer] = deque()
        self._prefetch: deque[Transfer] = deque()
        self._wake: simpy.Event = env.event()
        self._process = env.process(self._serve())

    def send(self, size: int, *, is_demand: bool) -> Transfer:
        """Queue a transfer that waits for nothing, and return it."""
        transfer = Transfer(size=size, is_demand=is_demand, done=self._env.event())
        self.submit(transfer)
        return transfer

    def submit(self, transfer: Transfer) -> None:
        """Queue one transfer now."""
        transfer.issued_s = self._env.now
        queue = self._demand if transfer.is_demand or self._keeps_order else self._prefetch
        queue.append(transfer)
        if not self._wake.triggered:
            self._wake.succeed()

    def _next(self) -> Transfer | None:
        """Take the first transfer that may start, demand first; in order only where the link keeps order.

        A demand may wait for the prefetch that is still filling its slot: that prefetch then goes first.
        """
        for queue in (self._demand, self._prefetch):
            for place, transfer in enumerate(queue):
                if all(event.processed for event in transfer.after):
                    del queue[place]
                    return transfer
                if self._keeps_order:
                    return None
        return None

    def _serve(self) -> Process[None]:
        while True:
            while not (self._demand or self._prefetch):
                self._wake = self._env.event()
                yield self._wake
            transfer = self._next()
            if transfer is None:
                pending = [event for queued in (*self._demand, *self._prefetch) for event in queued.after]
                self._wake = self._env.event()
                yield self._env.any_of([self._wake, *(event for event in pending if not event.processed)])
                continue
            self.busy.start()
            start_s = self._env.now
            yield from stretched(self._env, self._cost_s(transfer.size), self._slowdown_frac, self._other)
            self.busy.stop()
            if self._log is not None:
                self._log(transfer, start_s)
            transfer.done.succeed()
