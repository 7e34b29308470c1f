"""One device of a decode run: its page table, its copy engines, and the pages that are on their way to and from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import simpy

from kvsim.policies.residency import Decision
from kvsim.sim.clock import Process
from kvsim.sim.compute import ComputeStream, Work
from kvsim.sim.copies import Copies
from kvsim.sim.inputs import SimulationInput
from kvsim.sim.ledger import Ledger
from kvsim.sim.link import Transfer
from kvsim.sim.timeline import Timeline
from kvsim.types import IntArray, PageIds


class Device:
    """What a device does with the decisions about its layers; the host's time that it takes is `spend`'s.

    `run_input` is the run as this device sees it: of its own layers only.
    """

    def __init__(
        self,
        env: simpy.Environment,
        run_input: SimulationInput,
        compute: ComputeStream,
        spend: Callable[[str, float], Process[None]],
        timeline: Timeline | None,
    ) -> None:
        self.run_input = run_input
        self.step = 0
        self.last_attention: Work | None = None
        self.copies = Copies(
            env,
            run_input.profile.link,
            run_input.page_bytes,
            chunk_pages=run_input.chunk_pages,
            window_transfers=run_input.window_transfers,
            timeline=timeline,
        )
        self.residency = run_input.make_residency()
        self.ledger = Ledger(run_input.setting.grid, run_input.page_bytes)
        self._link = run_input.profile.link
        self._compute = compute
        self._spend = spend
        self._timeline = timeline
        self._transfers: dict[int, Transfer] = {}
        self._num_transfers = 0
        self._carried_by: IntArray = np.full(run_input.setting.grid.num_pages, -1, dtype=np.int64)
        """Number of the transfer that carries each page, -1 once it is known to have arrived."""
        self._writing_back: dict[int, simpy.Event] = {}

    def copy(self, decision: Decision) -> Process[tuple[simpy.Event, ...]]:
        """Submit what the decision moves; return the arrivals that attention must wait for."""
        copies = self.copies
        late = self._late(decision.hits)
        self.ledger.late(late[1])
        after = self._slots_free(decision.victims)
        waits_for = [transfer.done for transfer in late[0]]
        submissions = copies.force(late[0])
        if decision.misses.size:
            demand = self._transfer(decision.misses, is_demand=True, after=after)
            yield from self._submit(1)
            copies.to_device.submit(demand)
            waits_for.append(demand.done)
        place = 0
        for size in self._chunks(decision.prefetches.size):
            pages = decision.prefetches[place : place + size]
            transfer = self._transfer(pages, is_demand=False, after=after)
            self._carried_by[pages] = self._num_transfers
            self._transfers[self._num_transfers] = transfer
            self._num_transfers += 1
            place += size
            copies.hold_back(transfer)
            submissions += self._link.issue == "worker"
        submissions += copies.issue_prefetches()
        yield from self._submit(submissions)
        return tuple(waits_for)

    def write_back(self, layer: int, context: IntArray) -> Process[None]:
        """Copy pages that this step filled to the host, once."""
        run_input = self.run_input
        filled = np.flatnonzero((context > 0) & (context % run_input.replay.page_tokens == 0))
        if not filled.size or run_input.policy.holds == "everything" or run_input.drops:
            return
        for sequence in filled.tolist():
            index = int(context[sequence]) // run_input.replay.page_tokens - 1
            page = run_input.setting.grid.first_page(sequence=sequence, layer=layer) + index
            transfer = self._transfer(np.array([page]), is_demand=True, after=())
            self._writing_back[page] = transfer.done
            yield from self._spend("submit_s", self._link.to_host.submit_s)
            self.copies.to_host.submit(transfer)
        self.ledger.written_back(filled.size)

    def _transfer(self, pages: PageIds, *, is_demand: bool, after: tuple[simpy.Event, ...]) -> Transfer:
        transfer = self.copies.transfer(pages.size, is_demand=is_demand, after=after)
        if self._timeline is not None:
            transfer.place = self.step, int(self.run_input.setting.grid.layer_of(pages[:1])[0])
        return transfer

    def _chunks(self, num_pages: int) -> list[int]:
        """Return the pages of each transfer: whole layers travel as one where everything is read."""
        if self.run_input.policy.attends == "everything":
            return [num_pages] if num_pages else []
        return self.copies.chunks(num_pages)

    def _late(self, hits: PageIds) -> tuple[list[Transfer], int]:
        """Return the transfers that still carry selected pages, and how many of `hits` they carry."""
        carriers = self._in_flight(hits)
        return [self._transfers[number] for number in carriers], sum(carriers.values())

    def _in_flight(self, pages: PageIds) -> dict[int, int]:
        """Return the unfinished transfers that carry some of `pages`, with how many each; forget finished ones."""
        transfers = self._transfers
        while transfers and transfers[oldest := next(iter(transfers))].done.triggered:
            del transfers[oldest]
        if not transfers:
            return {}
        oldest = next(iter(transfers))
        carried_by = self._carried_by[pages]
        counts = np.bincount(carried_by[carried_by >= oldest] - oldest)
        return {
            oldest + int(place): int(counts[place])
            for place in np.flatnonzero(counts)
            if oldest + int(place) in transfers and not transfers[oldest + int(place)].done.triggered
        }

    def _slots_free(self, victims: PageIds) -> tuple[simpy.Event, ...]:
        """Return what must happen before the slots of `victims` may be written."""
        if not victims.size:
            return ()
        events: list[simpy.Event] = []
        read = self._compute.end_of(self.last_attention) if self.last_attention is not None else None
        if read is not None:
            events.append(read)
        in_flight = [self._transfers[number] for number in self._in_flight(victims)]
        self.copies.force(in_flight)
        events += [transfer.done for transfer in in_flight]
        self._carried_by[victims] = -1
        for page in [page for page in self._writing_back if self._writing_back[page].processed]:
            del self._writing_back[page]
        if self._writing_back:
            events += [self._writing_back[page] for page in victims.tolist() if page in self._writing_back]
        return tuple(events)

    def _submit(self, count: int) -> Process[None]:
        if count:
            yield from self._spend("submit_s", count * self._link.to_device.submit_s)
