"""One decode run of a batch in simulated time: selections from a trace, decisions from a policy, costs from a profile.

The host thread walks through the steps and layers as the engine's does; what it launches runs on the compute stream,
what it submits runs on the copy engines, and the three meet only at events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import numpy as np
import simpy
from numpy.typing import NDArray

from kvsim.errors import KvsimError
from kvsim.policies.residency import Decision
from kvsim.profile.profile import SHOWN_AS, SPECULATE
from kvsim.sim.clock import Process
from kvsim.sim.compute import ComputeStream, Work
from kvsim.sim.copies import Copies
from kvsim.sim.fast_path import FastPath, can_run
from kvsim.sim.inputs import SimulationInput
from kvsim.sim.ledger import Ledger
from kvsim.sim.link import Transfer
from kvsim.sim.replay import Reading
from kvsim.sim.timeline import Place, Timeline
from kvsim.types import IntArray, PageIds

Path: TypeAlias = Literal["auto", "events"]


ROWS_IN_CHUNK = 4096
"""Rows that `decode_in_chunks` keeps at a time."""


def simulate_decode(
    run_input: SimulationInput,
    progress: Callable[[int], None] | None = None,
    timeline: Timeline | None = None,
    *,
    path: Path = "auto",
) -> dict[str, NDArray[np.generic]]:
    """Return the rows of a decode run as columns (`kvsim.sim.ledger.COLUMNS`), one row a step.

    `progress` is called with 1 after each step; `timeline` collects who did what when. `path` is for tests and
    benchmarks: ``auto`` takes the fast path where `kvsim.sim.fast_path.can_run`, and nobody keeps a timeline, events
    otherwise; the rows are the same.
    """
    env = simpy.Environment()
    if _takes_fast_path(run_input, timeline, path):
        steps = FastPath(env, run_input, progress or _ignore, run_input.replay.num_steps)
        env.run(until=env.process(steps.run()))
        return steps.take()
    host = _Host(env, run_input, progress or _ignore, timeline)
    env.run(until=env.process(host.run()))
    host.ledger.finish()
    return host.ledger.columns()


def decode_in_chunks(
    run_input: SimulationInput, *, chunk_steps: int = ROWS_IN_CHUNK, path: Path = "auto"
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Yield the rows of a decode run in chunks, so that memory does not grow with the number of steps.

    Raises
    ------
    KvsimError
        If the run can only be simulated event by event, which keeps its rows.
    """
    if not _takes_fast_path(run_input, None, path):
        raise KvsimError("rows come in chunks from the fast path only; this profile is simulated event by event")
    env = simpy.Environment()
    steps = FastPath(env, run_input, _ignore, chunk_steps)
    process = env.process(steps.run())
    while process.is_alive:
        env.run(until=env.any_of([process, steps.chunk]))
        yield steps.take()


def _takes_fast_path(run_input: SimulationInput, timeline: Timeline | None, path: Path) -> bool:
    return path != "events" and timeline is None and can_run(run_input.profile) and not run_input.drops


def _ignore(num_steps: int) -> None:
    """Show no progress."""
    del num_steps


class _Host:
    """The host thread: the one process that knows the order of a step."""

    def __init__(
        self,
        env: simpy.Environment,
        run_input: SimulationInput,
        progress: Callable[[int], None],
        timeline: Timeline | None,
    ) -> None:
        self._env = env
        self._timeline = timeline
        self._place: Place = (0, None)
        self._run_input = run_input
        self._progress = progress
        self._profile = run_input.profile
        link = run_input.profile.link
        self._copies = Copies(
            env,
            link,
            run_input.page_bytes,
            chunk_pages=run_input.chunk_pages,
            window_transfers=run_input.window_transfers,
            timeline=timeline,
        )
        self._compute = ComputeStream(env, link.compute_slowdown_frac, self._copies.to_device.busy, timeline)
        self._residency = run_input.make_residency()
        self.ledger = Ledger(run_input.setting.grid, run_input.page_bytes)
        self._batch = run_input.setting.grid.num_sequences
        self._costs: dict[tuple[str, float], tuple[float, float, float]] = {}
        self._transfers: dict[int, Transfer] = {}
        self._num_transfers = 0
        self._carried_by: IntArray = np.full(run_input.setting.grid.num_pages, -1, dtype=np.int64)
        """Number of the transfer that carries each page, -1 once it is known to have arrived."""
        self._writing_back: dict[int, simpy.Event] = {}
        self._last_attention: Work | None = None
        self._reads_all = run_input.reads_all

    def run(self) -> Process[None]:
        """Decode every step."""
        run_input, env, replay = self._run_input, self._env, self._run_input.replay
        run_input.start(self._residency)
        ended_s = env.now
        for step in range(replay.num_steps):
            context = replay.context_tokens(step)
            self.ledger.begin(step, int(context.max()), is_warmup=step < run_input.warmup_steps)
            if not context.all():
                self._residency.end(context == 0)
            self._place = step, None
            yield from self._launch("embed", self._batch)
            for layer in range(run_input.setting.grid.num_layers):
                yield from self._layer(step, layer, context)
            self._place = step, None
            head = yield from self._launch("head", self._batch)
            yield from self._wait(head)
            self.ledger.end(env.now - ended_s, self._compute.read_parts())
            ended_s = env.now
            if not self._profile.synchronous:
                yield from self._spend("sync_s", self._profile.sync_s)
            self._progress(1)

    def _layer(self, step: int, layer: int, context: IntArray) -> Process[None]:
        run_input, profile, ledger = self._run_input, self._profile, self.ledger
        self._place = step, layer
        reading = run_input.replay.at(step, layer, everything=self._reads_all)
        yield from self._launch("attention_input", self._batch)
        if run_input.predicts and layer + 1 < run_input.setting.grid.num_layers:
            yield from self._launch(SPECULATE, int(reading.num_pages.sum()))
        if not self._reads_all:
            scored = yield from self._launch("select", int(reading.num_pages.sum()))
            if run_input.policy.reads_selection:
                yield from self._wait(scored)
                yield from self._spend("sync_s", profile.sync_s)
        decision = self._residency.decide(
            step=step,
            layer=layer,
            selected=reading.selected,
            scores=reading.scores,
            num_pages=reading.num_pages,
            speculation=run_input.replay.speculation(step, layer) if run_input.shows_speculation else None,
        )
        if run_input.drops:
            reading = Reading(
                num_pages=reading.num_pages,
                selected=decision.selected,
                scores=reading.scores,
                attended_frac=run_input.replay.attended_frac(step, layer, decision.selected),
            )
        ledger.count(decision)
        if run_input.policy.holds == "budget":
            decide_s = profile.decide_s(run_input.policy_name, reading.selected.size, run_input.setting.grid.num_pages)
            yield from self._spend("decide_s", decide_s)
        waits_for = yield from self._copy(decision)
        yield from self._write_back(layer, context)
        tokens = self._attended_tokens(reading, context)
        self._last_attention = yield from self._launch("attention", tokens, waits_for)
        yield from self._launch("attention_output", self._batch)
        ledger.mass(reading.attended_frac)

    def _copy(self, decision: Decision) -> Process[tuple[simpy.Event, ...]]:
        """Submit what the decision moves; return the arrivals that attention must wait for."""
        copies = self._copies
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
            submissions += self._profile.link.issue == "worker"
        submissions += copies.issue_prefetches()
        yield from self._submit(submissions)
        return tuple(waits_for)

    def _transfer(self, pages: PageIds, *, is_demand: bool, after: tuple[simpy.Event, ...]) -> Transfer:
        transfer = self._copies.transfer(pages.size, is_demand=is_demand, after=after)
        if self._timeline is not None:
            transfer.place = self._place[0], int(self._run_input.setting.grid.layer_of(pages[:1])[0])
        return transfer

    def _chunks(self, num_pages: int) -> list[int]:
        """Return the pages of each transfer: whole layers travel as one where everything is read."""
        if self._run_input.policy.attends == "everything":
            return [num_pages] if num_pages else []
        return self._copies.chunks(num_pages)

    def _late(self, hits: PageIds) -> tuple[list[Transfer], int]:
        """Return the transfers that still carry selected pages, and how many of `hits` they carry."""
        carriers = self._in_flight(hits)
        return [self._transfers[number] for number in carriers], sum(carriers.values())

    def _in_flight(self, pages: PageIds) -> dict[int, int]:
        """Return the unfinished transfers that carry some of `pages`, with how many each; forget finished ones."""
        if not self._transfers:
            return {}
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
        read = self._compute.end_of(self._last_attention) if self._last_attention is not None else None
        if read is not None:
            events.append(read)
        in_flight = [self._transfers[number] for number in self._in_flight(victims)]
        self._copies.force(in_flight)
        events += [transfer.done for transfer in in_flight]
        self._carried_by[victims] = -1
        for page in [page for page in self._writing_back if self._writing_back[page].processed]:
            del self._writing_back[page]
        if self._writing_back:
            events += [self._writing_back[page] for page in victims.tolist() if page in self._writing_back]
        return tuple(events)

    def _write_back(self, layer: int, context: IntArray) -> Process[None]:
        """Copy pages that this step filled to the host, once."""
        run_input = self._run_input
        filled = np.flatnonzero((context > 0) & (context % run_input.replay.page_tokens == 0))
        if not filled.size or run_input.policy.holds == "everything" or run_input.drops:
            return
        for sequence in filled.tolist():
            index = int(context[sequence]) // run_input.replay.page_tokens - 1
            page = run_input.setting.grid.first_page(sequence=sequence, layer=layer) + index
            transfer = self._transfer(np.array([page]), is_demand=True, after=())
            self._writing_back[page] = transfer.done
            yield from self._spend("submit_s", self._profile.link.to_host.submit_s)
            self._copies.to_host.submit(transfer)
        self.ledger.written_back(filled.size)

    def _launch(self, segment: str, amount: float, waits_for: tuple[simpy.Event, ...] = ()) -> Process[Work]:
        device_s, host_s, tail_s = self._cost(segment, amount)
        now_s = self._env.now
        work = Work(
            segment=SHOWN_AS.get(segment, segment),
            device_s=device_s,
            launch_s=now_s,
            host_end_s=now_s + host_s,
            tail_s=tail_s,
            waits_for=waits_for,
            place=self._place,
        )
        if self._profile.synchronous:
            yield from self._compute.execute(work)
            return work
        self._compute.put(work)
        if host_s:
            yield self._env.timeout(host_s)
            self._hosted("launch", now_s)
        return work

    def _cost(self, segment: str, amount: float) -> tuple[float, float, float]:
        """Return ``(device_s, host_s, tail_s)`` of a segment for this batch."""
        key = segment, amount
        if key not in self._costs:
            cost = self._profile.segment(segment)
            host_s = cost.host.at_s(amount, sequences=self._batch) if cost.host else 0.0
            device_s = cost.device.at_s(amount, sequences=self._batch)
            self._costs[key] = device_s, host_s, cost.tail_s if cost.host else 0.0
        return self._costs[key]

    def _wait(self, work: Work) -> Process[None]:
        ended = self._compute.end_of(work)
        if ended is not None:
            start_s = self._env.now
            yield ended
            self._hosted("wait", start_s)

    def _spend(self, name: str, time_s: float) -> Process[None]:
        self.ledger.host(name, time_s)
        if time_s:
            start_s = self._env.now
            yield self._env.timeout(time_s)
            self._hosted(name.removesuffix("_s"), start_s)

    def _hosted(self, name: str, start_s: float) -> None:
        if self._timeline is not None:
            self._timeline.hosted(name, self._place, start_s, self._env.now)

    def _submit(self, count: int) -> Process[None]:
        if count:
            yield from self._spend("submit_s", count * self._profile.link.to_device.submit_s)

    def _attended_tokens(self, reading: Reading, context: IntArray) -> int:
        """Return the tokens in the selected pages: an open page is not full."""
        page_tokens = self._run_input.replay.page_tokens
        unfilled = reading.num_pages * page_tokens - context
        return int(reading.selected.size * page_tokens - unfilled.sum())
