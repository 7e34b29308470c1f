"""The copy engines: a link in each direction, and prefetches that the host holds back where a stream cannot reorder.

With ``issue="worker"`` a link takes demand before prefetch. With ``"stream"`` what was issued runs in that order; then
demand overtakes only what the host has not issued yet.
"""

from __future__ import annotations

from collections import deque

import simpy

from kvsim.profile.profile import Link as LinkCosts
from kvsim.profile.profile import LinkCost
from kvsim.sim.clock import BusyClock
from kvsim.sim.link import Link, Transfer
from kvsim.sim.timeline import Timeline
from kvsim.types import Lane


class Copies:
    """Both directions, and the prefetches that the host holds back where a stream cannot reorder."""

    def __init__(
        self,
        env: simpy.Environment,
        link: LinkCosts,
        page_bytes: int,
        *,
        chunk_pages: int,
        window_transfers: int,
        timeline: Timeline | None = None,
    ) -> None:
        self._env = env
        self._link = link
        self._page_bytes = page_bytes
        self._timeline = timeline
        self._chunk_pages = chunk_pages
        self._window_transfers = window_transfers
        to_device, to_host = BusyClock(env), BusyClock(env)
        self.to_device = self._made(link.to_device, "to device", busy=to_device, other=to_host)
        self.to_host = self._made(link.to_host, "to host", busy=to_host, other=to_device)
        self._held_back: deque[Transfer] = deque()
        self._issued_prefetches: deque[Transfer] = deque()

    def _made(self, cost: LinkCost, lane: Lane, *, busy: BusyClock, other: BusyClock) -> Link:
        def log(transfer: Transfer, start_s: float) -> None:
            if self._timeline is not None and transfer.place is not None:
                self._timeline.copied(
                    lane,
                    transfer.place,
                    start_s,
                    self._env.now,
                    is_demand=transfer.is_demand,
                    num_pages=transfer.size,
                    submitted_s=transfer.issued_s,
                )

        return Link(
            self._env,
            lambda num_pages: cost.transfer_s(num_pages, self._page_bytes),
            keeps_order=self._link.issue == "stream",
            busy=busy,
            slowdown_frac=self._link.both_ways_slowdown_frac,
            other=other,
            log=log,
        )

    def transfer(self, num_pages: int, *, is_demand: bool, after: tuple[simpy.Event, ...]) -> Transfer:
        """Return a transfer that is not queued yet."""
        return Transfer(size=num_pages, is_demand=is_demand, done=self._env.event(), after=after)

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
            self._issue(self._held_back.popleft())
            count += 1
        return count

    def force(self, transfers: list[Transfer]) -> int:
        """Issue held-back prefetches that attention now waits for, in their order; return how many."""
        waited = {id(transfer) for transfer in transfers}
        forced = [transfer for transfer in self._held_back if id(transfer) in waited]
        if forced:
            self._held_back = deque(transfer for transfer in self._held_back if id(transfer) not in waited)
        for transfer in forced:
            self._issue(transfer)
        return len(forced)

    def _issue(self, transfer: Transfer) -> None:
        self._issued_prefetches.append(transfer)
        self.to_device.submit(transfer)
