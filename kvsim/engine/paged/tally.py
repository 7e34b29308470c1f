"""What really happened, counted where it happened: slots that attention read, slots freed, copies the link made."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvsim.engine.links.base import Transfer
from kvsim.engine.links.page_pool import EngineError
from kvsim.policies.devices import joined_digest
from kvsim.policies.residency import Decision
from kvsim.types import BoolArray, IntArray, PageIds

COUNTS = ("selected", "hits", "misses", "late", "prefetched", "used", "wasted", "evicted")
BYTES = ("to_device_bytes", "to_host_bytes")

PREFILL, APPENDED = -1, -2
"""Who filled a slot, where no transfer did; see `Tally.filled_by`."""


class Tally:
    """Counts of one decode run, by step, from what the mechanism did; the policy's state is only compared with it."""

    def __init__(self, num_slots: int, num_steps: int, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self._is_unread: BoolArray = np.zeros(num_slots, dtype=np.bool_)
        self.filled_by: IntArray = np.full(num_slots, PREFILL, dtype=np.int64)
        """Number of the transfer that fills or filled each slot."""
        self.columns: dict[str, NDArray[np.int64]] = {
            name: np.zeros(num_steps, dtype=np.int64) for name in (*COUNTS, *BYTES, "digest")
        }
        self._step = 0
        self._digest = 0

    def begin(self, step: int) -> None:
        """Open the row of a step."""
        self._step = step
        self._digest = 0

    def freed(self, slots: IntArray) -> None:
        """Count slots whose page left."""
        self.columns["evicted"][self._step] += slots.size
        self.columns["wasted"][self._step] += np.count_nonzero(self._is_unread[slots])
        self._is_unread[slots] = False

    def filling(self, slots: IntArray, number: int, *, is_prefetch: bool) -> None:
        """Note that transfer `number`, or something else that fills, has `slots` for its own."""
        self.filled_by[slots] = number
        self._is_unread[slots] = is_prefetch

    def late(self, count: int) -> None:
        """Add hits whose bytes had not arrived."""
        self.columns["late"][self._step] += count

    def read(self, slots: IntArray, demand_number: int | None) -> None:
        """Count the slots that attention reads; those that the layer's own demand filled were misses."""
        num_misses = 0 if demand_number is None else int(np.count_nonzero(self.filled_by[slots] == demand_number))
        self.columns["selected"][self._step] += slots.size
        self.columns["misses"][self._step] += num_misses
        self.columns["hits"][self._step] += slots.size - num_misses
        self.columns["used"][self._step] += np.count_nonzero(self._is_unread[slots])
        self._is_unread[slots] = False

    def digest(self, selected: PageIds, misses: PageIds, victims: PageIds, prefetches: PageIds) -> None:
        """Chain what one layer did into the step's digest."""
        for pages in (selected, misses, victims, prefetches):
            self._digest = zlib.crc32(np.ascontiguousarray(pages, dtype=np.int64).tobytes(), self._digest)
        self.columns["digest"][self._step] = self._digest

    @property
    def num_unread(self) -> int:
        """Slots whose page was prefetched and not read yet."""
        return int(np.count_nonzero(self._is_unread))

    def until(self, num_steps: int, num_unread: int) -> Tally:
        """Return a copy with the rows of the first `num_steps` steps, at whose end `num_unread` slots were unread.

        A step that another thread is decoding has its row behind them.
        """
        tally = Tally(num_unread, 0, self._page_bytes)
        tally._is_unread[:] = True
        tally.columns = {name: column[:num_steps].copy() for name, column in self.columns.items()}
        return tally

    def finish(self, transfers: Sequence[Transfer]) -> None:
        """Count what the link copied, now that it is drained, and prefetched pages that nobody read."""
        misses = np.zeros_like(self.columns["misses"])
        for transfer in transfers:
            direction = "to_host_bytes" if transfer.kind == "write-back" else "to_device_bytes"
            self.columns[direction][transfer.step] += transfer.num_copied * self._page_bytes
            if transfer.kind == "prefetch":
                self.columns["prefetched"][transfer.step] += transfer.num_copied
            elif transfer.kind == "demand":
                misses[transfer.step] += transfer.num_copied
        if not np.array_equal(misses, self.columns["misses"]):
            step = int(np.flatnonzero(misses != self.columns["misses"])[0])
            raise EngineError(
                f"step {step}: the link copied {misses[step]} demanded pages, "
                f"attention read {self.columns['misses'][step]}"
            )
        self.columns["wasted"][-1] += self.num_unread


def merged(columns: Sequence[dict[str, NDArray[np.int64]]]) -> dict[str, NDArray[np.int64]]:
    """Return the counts of several devices, added up; the digest is of their digests."""
    names = (*COUNTS, *BYTES)
    whole: dict[str, NDArray[np.int64]] = {name: np.sum([own[name] for own in columns], axis=0) for name in names}
    return whole | {"digest": joined_digest(np.stack([own["digest"] for own in columns]))}


def check_agreement(decision: Decision, misses: PageIds, opened: PageIds, num_free: int, spare_slots: int) -> None:
    """Raise an `EngineError` where the page table and the policy's own state differ.

    Parameters
    ----------
    misses
        Selected pages without a slot, by the page table.
    num_free, spare_slots
        Free slots once all moves are made, and how many of them lie beyond the budget.
    """
    if not np.array_equal(misses, decision.misses):
        raise EngineError(f"the page table misses {misses.tolist()}, the policy {decision.misses.tolist()}")
    if not np.array_equal(opened, decision.opened):
        raise EngineError(f"pages {opened.tolist()} were opened, the policy says {decision.opened.tolist()}")
    if num_free < spare_slots:
        raise EngineError(f"{spare_slots - num_free} pages are on the device beyond the budget")
