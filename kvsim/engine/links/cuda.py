"""The link of a machine with a GPU: copy streams of their own, events, and a bounded window of prefetches.

Written where no GPU was available: its logic has not run yet.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Literal, TypeAlias

import torch

from kvsim.engine.links.base import Transfer
from kvsim.engine.links.page_pool import EngineError, PagePool
from kvsim.types import IntArray, PageIds

Mechanism: TypeAlias = Literal["memcpy", "staged"]
"""``memcpy``: one asynchronous copy a page. ``staged``: pages are gathered in pinned memory and travel as one copy."""


_TIMED_CYCLES, _MOST_TIMINGS = 20_000_000, 50


def mechanism_named(name: str) -> Mechanism:
    """Return the mechanism that a profile names for its copies; ``memcpy`` where it is none of the two.

    Examples
    --------
    >>> mechanism_named("staged"), mechanism_named("emulated")
    ('staged', 'memcpy')
    """
    return "staged" if name == "staged" else "memcpy"


class _EventLatch:
    """What a transfer's completion looks like once it was issued: an event on its copy stream."""

    __slots__ = ("event",)

    def __init__(self, event: torch.cuda.Event) -> None:
        self.event = event

    @property
    def is_open(self) -> bool:
        return bool(self.event.query())  # type: ignore[no-untyped-call]

    def open(self) -> None:
        """Nothing to do: the device opens it."""

    def wait(self) -> None:
        self.event.synchronize()


class CudaLink:
    """Asynchronous copies between pinned host pages and device slots, one stream a direction.

    A stream cannot reorder, so demand overtakes only prefetches that are not issued yet: at most `window_transfers` of
    them are, and `advance` issues more as they finish. A copy waits for all compute launched before it was issued,
    which holds the last reader of its slots; nothing ever waits for the whole device.

    Parameters
    ----------
    slowed_bytes_per_s
        Emulate a slower link: behind its copy each transfer holds its stream as long as its bytes take at this rate.
    """

    issue: Literal["worker", "stream"] = "stream"

    def __init__(
        self,
        pool: PagePool,
        *,
        window_transfers: int,
        mechanism: Mechanism = "memcpy",
        slowed_bytes_per_s: float | None = None,
    ) -> None:
        self._pool = pool
        self._window_transfers = window_transfers
        self._mechanism = mechanism
        page_s = pool.page_bytes / slowed_bytes_per_s if slowed_bytes_per_s else 0.0
        self._page_cycles = page_s * cycles_per_s() if page_s else 0.0
        self._to_device = torch.cuda.Stream(pool.slots.device)  # type: ignore[no-untyped-call]
        self._to_host = torch.cuda.Stream(pool.slots.device)  # type: ignore[no-untyped-call]
        self._lock = threading.RLock()  # a thread that asks for a report drains the link while another decodes
        self._submitted: list[Transfer] = []
        self._held_back: deque[Transfer] = deque()
        self._in_window: deque[Transfer] = deque()
        self._slot_views: dict[int, torch.Tensor] = {}
        self._host_views: dict[int, torch.Tensor] = {}
        self._times: dict[int, tuple[torch.cuda.Event, torch.cuda.Event]] = {}
        self._began = timed_event()
        self._began.record(torch.cuda.current_stream(pool.slots.device))
        self._began.synchronize()
        self._began_s = time.perf_counter()

    def submit(self, transfer: Transfer) -> None:
        """Issue a demand or a write-back now; hold a prefetch back until `advance` finds room."""
        with self._lock:
            transfer.submitted_s = time.perf_counter()
            self._submitted.append(transfer)
            if transfer.kind == "prefetch":
                self._held_back.append(transfer)
            else:
                self._issue(transfer)

    def advance(self) -> None:
        """Issue held-back prefetches up to the window."""
        with self._lock:
            while self._in_window and self._in_window[0].is_done:
                self._in_window.popleft()
            while self._held_back and len(self._in_window) < self._window_transfers:
                transfer = self._held_back.popleft()
                self._in_window.append(transfer)
                self._issue(transfer)

    def wait(self, transfers: Sequence[Transfer]) -> None:
        """Make what is launched next wait for `transfers`; the host does not wait."""
        with self._lock:
            stream = torch.cuda.current_stream(self._pool.slots.device)
            for transfer in transfers:
                stream.wait_event(self._event_of(transfer))

    def drain(self) -> list[Transfer]:
        """Issue what is held back, wait until all is done, and return every transfer in order of submission."""
        with self._lock:
            while self._held_back:
                self._issue(self._held_back.popleft())
            for transfer in self._submitted:
                self._event_of(transfer).synchronize()
            for transfer in self._submitted:
                started, ended = self._times.pop(id(transfer), (None, None))
                if started is not None and ended is not None:
                    transfer.start_s = self._began_s + self._began.elapsed_time(started) * 1e-3
                    transfer.end_s = self._began_s + self._began.elapsed_time(ended) * 1e-3
            return self._submitted

    def remember(self, transfers: Sequence[Transfer]) -> None:
        """Count `transfers`, which another link has done, among those of this link, which has done none yet."""
        self._submitted[:0] = transfers

    def close(self) -> None:
        """Wait until the copies are done; the streams go with the object."""
        self._to_device.synchronize()
        self._to_host.synchronize()

    def _event_of(self, transfer: Transfer) -> torch.cuda.Event:
        """Return the event that ends `transfer`, issuing it first if it was held back."""
        if not isinstance(transfer.done, _EventLatch):
            self._held_back.remove(transfer)
            self._in_window.append(transfer)
            self._issue(transfer)
        assert isinstance(transfer.done, _EventLatch)
        return transfer.done.event

    def _issue(self, transfer: Transfer) -> None:
        is_up = transfer.kind == "write-back"
        stream = self._to_host if is_up else self._to_device
        before = [self._event_of(other) for other in transfer.after]
        stream.wait_stream(torch.cuda.current_stream(self._pool.slots.device))
        for event in before:
            stream.wait_event(event)
        started, ended = timed_event(), timed_event()
        with torch.cuda.stream(stream):
            started.record()
            if is_up:
                self._store(transfer)
            elif self._mechanism == "staged" and transfer.pages.size > 1:
                self._load_staged(transfer)
            else:
                self._load_each(transfer)
            if self._page_cycles:
                torch.cuda._sleep(int(transfer.pages.size * self._page_cycles))  # type: ignore[no-untyped-call]
            ended.record()
        transfer.num_copied = int(transfer.pages.size)
        transfer.done = _EventLatch(ended)
        self._times[id(transfer)] = started, ended

    def _load_each(self, transfer: Transfer) -> None:
        self._check_on_host(transfer)
        torch._foreach_copy_(self._slots_of(transfer.slots), self._host_pages_of(transfer.pages), non_blocking=True)
        self._pool.tag_of[transfer.slots] = transfer.pages

    def _load_staged(self, transfer: Transfer) -> None:
        """Gather on the host, copy once, scatter on the device; torch keeps pinned memory until its copy is done."""
        pool = self._pool
        self._check_on_host(transfer)
        staging = torch.empty((transfer.pages.size, *pool.slots.shape[1:]), dtype=pool.slots.dtype, pin_memory=True)
        pool.gather(transfer.pages, staging)
        arrived = staging.to(pool.slots.device, non_blocking=True)
        slots = torch.from_numpy(transfer.slots).pin_memory().to(pool.slots.device, non_blocking=True)
        pool.slots.index_copy_(0, slots, arrived)
        pool.tag_of[transfer.slots] = transfer.pages

    def _store(self, transfer: Transfer) -> None:
        pool = self._pool
        tags = pool.tag_of[transfer.slots]
        if (tags != transfer.pages).any():
            place = int((tags != transfer.pages).argmax())
            slot, page = transfer.slots[place], transfer.pages[place]
            raise EngineError(f"slot {slot} holds page {tags[place]}, not page {page} to be written back")
        torch._foreach_copy_(self._host_pages_of(transfer.pages), self._slots_of(transfer.slots), non_blocking=True)
        pool.is_on_host[transfer.pages] = True

    def _slots_of(self, slots: IntArray) -> list[torch.Tensor]:
        """Return views of `slots`; each is made once, which takes longer than to hand over its copy."""
        views = self._slot_views
        for slot in slots.tolist():
            if slot not in views:
                views[slot] = self._pool.slots[slot]
        return [views[slot] for slot in slots.tolist()]

    def _host_pages_of(self, pages: PageIds) -> list[torch.Tensor]:
        """Return views of host pages, likewise."""
        views = self._host_views
        for page in pages.tolist():
            if page not in views:
                views[page] = self._pool.host_pages[divmod(page, self._pool.grid.pages_per_layer)]
        return [views[page] for page in pages.tolist()]

    def _check_on_host(self, transfer: Transfer) -> None:
        is_there = self._pool.is_on_host[transfer.pages]
        if not is_there.all():
            page = int(transfer.pages[~is_there][0])
            raise EngineError(f"page {page} was asked of the host, which does not hold it")


@cache
def cycles_per_s() -> float:
    """Return the cycles of the device's sleep in a second, timed: not every torch and driver reports the clock's rate.

    An idle device starts slowly, so it is timed until two times agree within 0.2%.
    """
    timed = 0.0
    for _ in range(_MOST_TIMINGS):
        before, timed = timed, _timed_cycles_per_s()
        if abs(timed - before) < 0.002 * timed:
            break
    return timed


def _timed_cycles_per_s() -> float:
    started, ended = timed_event(), timed_event()
    started.record()
    torch.cuda._sleep(_TIMED_CYCLES)  # type: ignore[no-untyped-call]
    ended.record()
    ended.synchronize()
    return float(_TIMED_CYCLES / (started.elapsed_time(ended) * 1e-3))  # CUDA gives ms


def timed_event() -> torch.cuda.Event:
    """Return an event that knows when it fired."""
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
