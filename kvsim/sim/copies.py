"""The copy engines: one transfer at a time in each direction, demand before prefetch where the link can choose."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import simpy

from kvsim.profile.profile import Link, LinkCost
from kvsim.sim.clock import BusyClock, Process, stretched
from kvsim.sim.timeline import Place, Timeline
from kvsim.types import Lane


@dataclass(slots=True, eq=False)
class Transfer:
    """Pages that travel together; `done` fires when their bytes have arrived."""

    num_pages: int
    is_demand: bool
    done: simpy.Event
    after: tuple[simpy.Event, ...] = ()
    """What must have happened before the copy may start: readers and write-backs of the slots it fills."""
    issued_s: float = field(default=0.0)
    place: Place | None = None
    """For the timeline; None where none is kept."""


class CopyEngine:
    """One direction of the link, as a process that serves its queue until the simulation ends.

    With ``issue="worker"`` an idle engine takes the oldest demand transfer, else the oldest prefetch. With
    ``"stream"`` what was issued runs in that order; then demand overtakes only what the host has not issued yet.
    """

    def __init__(
        self,
        env: simpy.Environment,
        cost: LinkCost,
        link: Link,
        page_bytes: int,
        other: BusyClock | None,
        *,
        lane: Lane = "to device",
        timeline: Timeline | None = None,
    ) -> None:
        self._env = env
        self._lane: Lane = lane
        self._timeline = timeline
        self._cost = cost
        self._keeps_order = link.issue == "stream"
        self._slowdown_frac = link.both_ways_slowdown_frac if other is not None else 0.0
        self._page_bytes = page_bytes
        self.busy = BusyClock(env)
        self._other = other or self.busy
        self._demand: deque[Transfer] = deque()
        self._prefetch: deque[Transfer] = deque()
        self._wake: simpy.Event = env.event()
        self._process = env.process(self._serve())

    def submit(self, transfer: Transfer) -> None:
        """Queue one transfer now."""
        transfer.issued_s = self._env.now
        if transfer.is_demand or self._keeps_order:
            self._demand.append(transfer)
        else:
            self._prefetch.append(transfer)
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
            work_s = self._cost.transfer_s(transfer.num_pages, self._page_bytes)
            yield from stretched(self._env, work_s, self._slowdown_frac, self._other)
            self.busy.stop()
            if self._timeline is not None and transfer.place is not None:
                self._timeline.copied(
                    self._lane,
                    transfer.place,
                    start_s,
                    self._env.now,
                    is_demand=transfer.is_demand,
                    num_pages=transfer.num_pages,
                    submitted_s=transfer.issued_s,
                )
            transfer.done.succeed()


class Copies:
    """Both directions, and the prefetches that the host holds back where a stream cannot reorder."""

    def __init__(
        self,
        env: simpy.Environment,
        link: Link,
        page_bytes: int,
        *,
        chunk_pages: int,
        window_transfers: int,
        timeline: Timeline | None = None,
    ) -> None:
        self._env = env
        self._link = link
        self._chunk_pages = chunk_pages
        self._window_transfers = window_transfers
        self.to_device = CopyEngine(env, link.to_device, link, page_bytes, None, timeline=timeline)
        self.to_host = CopyEngine(
            env, link.to_host, link, page_bytes, self.to_device.busy, lane="to host", timeline=timeline
        )
        if link.both_ways_slowdown_frac:
            self.to_device._other = self.to_host.busy
            self.to_device._slowdown_frac = link.both_ways_slowdown_frac
        self._held_back: deque[Transfer] = deque()
        self._issued_prefetches: deque[Transfer] = deque()

    def transfer(self, num_pages: int, *, is_demand: bool, after: tuple[simpy.Event, ...]) -> Transfer:
        """Return a transfer that is not queued yet."""
        return Transfer(num_pages=num_pages, is_demand=is_demand, done=self._env.event(), after=after)

    def chunks(self, num_pages: int) -> list[int]:
        """Return the sizes of the transfers that `num_pages` prefetched pages make."""
        full, rest = divmod(num_pages, self._chunk_pages)
        return [self._chunk_pages] * full + ([rest] if rest else [])

    def hold_back(self, transfer: Transfer) -> None:
        """Queue a prefetch: at once where the link sorts, else when an issue point finds room in the window."""
        if self._link.issue == "worker":
            self.to_device.submit(transfer)
        else:
            self._held_back.append(transfer)

    def issue_prefetches(self) -> int:
        """Issue held-back prefetches up to the window, as the host does at each decision; return how many."""
        issued = self._issued_prefetches
        while issued and issued[0].done.triggered:
            issued.popleft()
        count = 0
        while self._held_back and len(issued) < self._window_transfers:
            transfer = self._held_back.popleft()
            issued.append(transfer)
            self.to_device.submit(transfer)
            count += 1
        return count

    def force(self, transfers: list[Transfer]) -> int:
        """Issue held-back prefetches that attention now waits for, in their order; return how many."""
        waited = {id(transfer) for transfer in transfers}
        kept: deque[Transfer] = deque()
        count = 0
        while self._held_back:
            transfer = self._held_back.popleft()
            if id(transfer) in waited:
                self._issued_prefetches.append(transfer)
                self.to_device.submit(transfer)
                count += 1
            else:
                kept.append(transfer)
        self._held_back = kept
        return count
