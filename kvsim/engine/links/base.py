"""How pages travel between host and device: the interface, and the link of a machine without a GPU, emulated."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal, Protocol, TypeAlias

from kvsim.engine.links.page_pool import EngineError
from kvsim.errors import KvsimError
from kvsim.types import IntArray, PageIds

TransferKind: TypeAlias = Literal["demand", "prefetch", "write-back"]

_PR_SET_TIMERSLACK = 29  # <linux/prctl.h>


class Latch(Protocol):
    """Opens once, when a transfer's bytes have arrived."""

    @property
    def is_open(self) -> bool:
        """Whether it has opened."""

    def open(self) -> None:
        """Open it."""

    def wait(self) -> None:
        """Block the calling thread until it is open."""


class _LockLatch:
    """A bare lock: an Event costs five times as much to set. Whoever waits holds it for a moment, hence the flag."""

    __slots__ = ("_lock", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        self.is_open = True
        self._lock.release()

    def wait(self) -> None:
        with self._lock:
            pass


@dataclass(slots=True, eq=False, kw_only=True)
class Transfer:
    """Pages that travel together, and when they did."""

    kind: TransferKind
    pages: PageIds
    slots: IntArray
    step: int
    after: tuple[Transfer, ...] = ()
    """Transfers that must be done before this one may touch its slots."""
    submitted_s: float = 0.0
    start_s: float = 0.0
    end_s: float = 0.0
    """When the link was free again, on the clock of `time.perf_counter`."""
    num_copied: int = 0
    """Pages really copied, as the copier reports."""
    done: Latch = field(default_factory=_LockLatch)

    @property
    def is_done(self) -> bool:
        """Whether the bytes have arrived."""
        return self.done.is_open


class Link(Protocol):
    """Both directions between host and device, each doing one transfer at a time, demand before prefetch."""

    @property
    def issue(self) -> Literal["worker", "stream"]:
        """``worker``: whoever is idle takes demand first. ``stream``: no reordering of what was issued."""

    def submit(self, transfer: Transfer) -> None:
        """Hand over one transfer; returns before it is done."""

    def advance(self) -> None:
        """Issue prefetches held back for a window; called at every decision."""

    def wait(self, transfers: Sequence[Transfer]) -> None:
        """Make what computes next wait for `transfers`."""

    def drain(self) -> list[Transfer]:
        """Wait until all that was submitted is done and return the link's list of transfers, in order of submission.

        Another thread may submit meanwhile: what the list has besides need not be done.
        """

    def remember(self, transfers: Sequence[Transfer]) -> None:
        """Count `transfers`, which another link has done, among those of this link, which has done none yet."""

    def close(self) -> None:
        """End the link's threads or streams; transfers still queued are done first."""


class Copier(Protocol):
    """What an emulated link has copied by: a page is whatever the copier counts in."""

    page_bytes: int

    def load(self, pages: PageIds, slots: IntArray) -> int:
        """Copy pages of the host into slots of the device; return how many were copied."""

    def store(self, pages: PageIds, slots: IntArray) -> int:
        """Copy slots of the device to the host; return how many were copied."""


class EmulatedLink:
    """Worker threads that really copy, then hold each transfer until the stated bandwidth allows its end.

    A transfer starts when the one before it ended by the stated bandwidth, or when it was submitted to an idle
    link; it ends ``bytes / bandwidth`` later, or when the copy is done if that took longer. Deadlines are absolute, so
    a sleep that lasts too long delays its own transfer's end and nobody else's.
    """

    issue: Literal["worker", "stream"] = "worker"

    def __init__(self, copier: Copier, bandwidth_bytes_per_s: float) -> None:
        self._submitted: list[Transfer] = []
        self._to_device = _Lane("kvsim-to-device", copier.load, copier.page_bytes / bandwidth_bytes_per_s)
        self._to_host = _Lane("kvsim-to-host", copier.store, copier.page_bytes / bandwidth_bytes_per_s)

    def submit(self, transfer: Transfer) -> None:
        """Queue one transfer for the worker of its direction."""
        self._submitted.append(transfer)
        (self._to_host if transfer.kind == "write-back" else self._to_device).submit(transfer)

    def advance(self) -> None:
        """Nothing is held back: the worker itself takes demand before prefetch."""

    def wait(self, transfers: Sequence[Transfer]) -> None:
        """Block until `transfers` are done: on a synchronous machine the host is the compute stream."""
        for transfer in transfers:
            transfer.done.wait()
        self._raise_error()

    def drain(self) -> list[Transfer]:
        """Wait until all that was submitted is done and return the link's list of transfers."""
        self.wait(list(self._submitted))
        return self._submitted

    def remember(self, transfers: Sequence[Transfer]) -> None:
        """Count `transfers`, which another link has done, among those of this link, which has done none yet."""
        self._submitted[:0] = transfers

    def close(self) -> None:
        """Finish what is queued and end the threads."""
        self._to_device.close()
        self._to_host.close()

    def _raise_error(self) -> None:
        for lane in (self._to_device, self._to_host):
            if lane.problem is not None:
                raise EngineError("a copy failed") from lane.problem


class _Lane:
    """One direction: a thread, a queue of demands and a queue of prefetches."""

    def __init__(self, name: str, copy: Callable[[PageIds, IntArray], int], page_s: float) -> None:
        self.problem: BaseException | None = None
        self._copy = copy
        self._page_s = page_s
        self._free_s = 0.0
        self._arrivals: SimpleQueue[Transfer | None] = SimpleQueue()
        self._queues: tuple[deque[Transfer], deque[Transfer]] = (deque(), deque())  # demand, prefetch
        self._closing = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def submit(self, transfer: Transfer) -> None:
        transfer.submitted_s = time.perf_counter()
        with self._closing:
            if self._is_closed:
                raise KvsimError("the link is closed: its cache was closed by another thread during a decode step")
            self._arrivals.put(transfer)

    def close(self) -> None:
        with self._closing:
            self._is_closed = True
            self._arrivals.put(None)
        if threading.current_thread() is not self._thread:  # whose garbage collection may end a cache
            self._thread.join()

    def _serve(self) -> None:
        _sleep_precisely()
        is_closing = False
        while not is_closing or any(self._queues):
            is_closing = not self._take_arrivals(must_wait=not is_closing and not any(self._queues)) or is_closing
            transfer = self._next()
            if transfer is not None:
                self._carry(transfer)
            elif any(self._queues):
                self._wait_for_other_direction()

    def _take_arrivals(self, *, must_wait: bool) -> bool:
        """Sort what was submitted into the two queues; return False once asked to close."""
        is_open = True
        while must_wait or not self._arrivals.empty():
            transfer = self._arrivals.get()
            must_wait = False
            if transfer is None:
                is_open = False
            else:
                self._queues[transfer.kind == "prefetch"].append(transfer)
        return is_open

    def _next(self) -> Transfer | None:
        """Take the first transfer that may start, demand first."""
        for queue in self._queues:
            for place, transfer in enumerate(queue):
                if all(other.is_done for other in transfer.after):
                    del queue[place]
                    return transfer
        return None

    def _wait_for_other_direction(self) -> None:
        """Wait for a transfer of the other direction that holds one up: a page whose write-back is under way.

        By now it may be done, and then there is nothing to wait for.
        """
        queued = [transfer for queue in self._queues for transfer in queue]
        held_up_by = [other for transfer in queued for other in transfer.after if other not in queued]
        pending = next((other for other in held_up_by if not other.is_done), None)
        if pending is not None:
            pending.done.wait()

    def _carry(self, transfer: Transfer) -> None:
        # A transfer that waited starts where what it waited for was due to end, not where the thread awoke.
        transfer.start_s = max(transfer.submitted_s, self._free_s, *(other.end_s for other in transfer.after))
        try:
            transfer.num_copied = self._copy(transfer.pages, transfer.slots)
        except BaseException as problem:  # raised for whoever waits, in its own thread
            self.problem = problem
        due_s = transfer.start_s + transfer.pages.size * self._page_s
        now_s = time.perf_counter()
        if now_s < due_s:
            time.sleep(due_s - now_s)
        transfer.end_s = self._free_s = max(due_s, now_s)
        transfer.done.open()


def _sleep_precisely() -> None:
    """Ask Linux to end this thread's sleeps within a microsecond of their time instead of fifty."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1000), 0, 0, 0)
