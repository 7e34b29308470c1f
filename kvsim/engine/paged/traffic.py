"""Turns a decision into slots, page table entries and transfers, and knows which pages are still on their way."""

from __future__ import annotations

import numpy as np

from kvsim.engine.links.base import Link, Transfer, TransferKind
from kvsim.engine.links.page_pool import NOWHERE, EngineError, PagePool
from kvsim.engine.paged.tally import APPENDED, Tally
from kvsim.policies.residency import Decision
from kvsim.types import BoolArray, IntArray, PageIds


class Traffic:
    """Moves the pages of one batch.

    A page on its way may lose its slot; whatever takes that slot next waits for the copy. The same holds for a slot
    whose page is still being written back.
    """

    def __init__(self, pool: PagePool, link: Link, tally: Tally, *, chunk_pages: int | None) -> None:
        self._pool = pool
        self._link = link
        self._tally = tally
        self._chunk_pages = chunk_pages
        self._transfers: dict[int, Transfer] = {}
        self._num_transfers = 0
        self._blocked_by: dict[int, Transfer] = {}
        self._writing_back: dict[int, Transfer] = {}
        self.step = 0

    def open_page(self, page: int) -> int:
        """Give a page that begins to fill a slot of its own, ready to be written, and return the slot."""
        slots = self._pool.take(np.array([page]))
        slot = int(slots[0])
        blocker = self._blocked_by.pop(slot, None)
        if blocker is not None:
            self._link.wait([blocker])
        self._pool.tag_of[slot] = page
        self._tally.filling(slots, APPENDED, is_prefetch=False)
        return slot

    def late(self, hits: PageIds) -> list[Transfer]:
        """Count the selected pages whose bytes have not arrived; return the transfers that bring them."""
        transfers = self._transfers
        while transfers and transfers[oldest := next(iter(transfers))].is_done:
            del transfers[oldest]
        if not transfers:
            return []
        numbers = self._tally.filled_by[self._pool.slot_of[hits]]
        distinct, counts = np.unique(numbers[numbers >= 0], return_counts=True)
        bringing = []
        for number, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            transfer = transfers.get(number)
            if transfer is not None and not transfer.is_done:
                bringing.append(transfer)
                self._tally.late(count)
        return bringing

    def submit(self, decision: Decision) -> Transfer | None:
        """Free the victims' slots, and hand misses and prefetches to the link; return the misses' transfer."""
        if decision.victims.size:
            self._release(decision.victims)
        demand = self._bring("demand", decision.misses) if decision.misses.size else None
        size = self._chunk_pages or max(decision.prefetches.size, 1)
        for place in range(0, decision.prefetches.size, size):
            self._bring("prefetch", decision.prefetches[place : place + size])
        self._link.advance()
        return demand

    def write_back(self, pages: PageIds) -> None:
        """Copy `pages`, which are full now, to the host, one transfer a page."""
        for page in pages:
            single = np.array([page])
            transfer = self._new("write-back", single, self._pool.slot_of[single], after=())
            self._writing_back[int(page)] = transfer
            self._link.submit(transfer)

    def number_of(self, transfer: Transfer | None) -> int | None:
        """Return the number by which the tally knows a transfer."""
        return None if transfer is None else int(self._tally.filled_by[transfer.slots[0]])

    def _release(self, victims: PageIds) -> None:
        numbers = self._tally.filled_by[self._pool.slot_of[victims]] if self._transfers else None
        self._writing_back = {page: move for page, move in self._writing_back.items() if not move.is_done}
        is_leaving: BoolArray = np.zeros(victims.size, dtype=np.bool_)
        if self._writing_back:
            is_leaving = np.isin(victims, list(self._writing_back))
        slots = self._pool.release(victims, is_leaving)
        self._tally.freed(slots)
        if numbers is not None:
            for slot, number in zip(slots.tolist(), numbers.tolist(), strict=True):
                transfer = self._transfers.get(number)
                if transfer is not None and not transfer.is_done:
                    self._blocked_by[slot] = transfer
        for page, slot in zip(victims[is_leaving].tolist(), slots[is_leaving].tolist(), strict=True):
            self._blocked_by[slot] = self._writing_back[page]

    def _bring(self, kind: TransferKind, pages: PageIds) -> Transfer:
        slots = self._pool.take(pages)
        after: list[Transfer] = []
        if self._blocked_by:
            blockers = [self._blocked_by.pop(slot, None) for slot in slots.tolist()]
            after = [blocker for blocker in blockers if blocker is not None and not blocker.is_done]
        if self._writing_back:
            after += [self._writing_back[page] for page in pages.tolist() if page in self._writing_back]
        transfer = self._new(kind, pages, slots, after=tuple(after))
        self._tally.filling(slots, self._num_transfers, is_prefetch=kind == "prefetch")
        if kind == "prefetch":
            self._transfers[self._num_transfers] = transfer
        self._num_transfers += 1
        self._link.submit(transfer)
        return transfer

    def _new(self, kind: TransferKind, pages: PageIds, slots: IntArray, *, after: tuple[Transfer, ...]) -> Transfer:
        if (slots == NOWHERE).any():
            raise EngineError(f"a {kind} of a page without a slot")
        return Transfer(kind=kind, pages=pages, slots=slots, step=self.step, after=after)
