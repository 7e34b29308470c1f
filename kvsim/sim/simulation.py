"""One decode run of a batch in simulated time: selections from a trace, decisions from a policy, costs from a profile.

The host thread walks through the steps and layers as the engine's does; what it launches runs on the compute stream,
what it submits runs on the copy engines, and the three meet only at events. Where layers lie on several devices, each
has copy engines and a page table of its own; a token passes them one after the other, so one compute stream stands for
all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import numpy as np
import simpy
from numpy.typing import NDArray

from kvsim.errors import KvsimError
from kvsim.profile.hop import Hop, hop_of
from kvsim.profile.profile import SHOWN_AS, SPECULATE
from kvsim.sim.clock import Process
from kvsim.sim.compute import ComputeStream, Work
from kvsim.sim.device import Device
from kvsim.sim.fast_path import FastPath, can_run
from kvsim.sim.inputs import SimulationInput
from kvsim.sim.ledger import merged
from kvsim.sim.replay import Reading
from kvsim.sim.timeline import Place, Timeline
from kvsim.types import IntArray

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

    `progress` is called with 1 after each step; `timeline` collects who did what when, on one device. `path` is for
    tests and benchmarks: ``auto`` takes the fast path where `kvsim.sim.fast_path.can_run`, nobody keeps a timeline and
    all layers lie on one device, events otherwise; the rows are the same.
    """
    env = simpy.Environment()
    if _takes_fast_path(run_input, timeline, path):
        steps = FastPath(env, run_input, progress or _ignore, run_input.replay.num_steps)
        env.run(until=env.process(steps.run()))
        return steps.take()
    host = _Host(env, run_input, progress or _ignore, timeline)
    env.run(until=env.process(host.run()))
    return host.columns()


def decode_in_chunks(
    run_input: SimulationInput, *, chunk_steps: int = ROWS_IN_CHUNK
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Yield the rows of a decode run in chunks, so that memory does not grow with the number of steps.

    Raises
    ------
    KvsimError
        If the run can only be simulated event by event, which keeps its rows.
    """
    if not _takes_fast_path(run_input, None, "auto"):
        raise KvsimError("rows come in chunks from the fast path only; this run is simulated event by event")
    env = simpy.Environment()
    steps = FastPath(env, run_input, _ignore, chunk_steps)
    process = env.process(steps.run())
    while process.is_alive:
        env.run(until=env.any_of([process, steps.chunk]))
        yield steps.take()


def _takes_fast_path(run_input: SimulationInput, timeline: Timeline | None, path: Path) -> bool:
    is_alone = len(run_input.devices) < 2
    return path != "events" and timeline is None and can_run(run_input.profile) and not run_input.drops and is_alone


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
        self._compute = ComputeStream(env, run_input.profile.link.compute_slowdown_frac, timeline)
        self._parts = run_input.parts()
        self._devices = [Device(env, part, self._compute, self._spend, timeline) for _, part in self._parts]
        self._device = self._devices[0]
        self._hop = hop_of(run_input.profile, run_input.hidden_bytes) if len(self._parts) > 1 else None
        self._batch = run_input.setting.grid.num_sequences
        self._costs: dict[tuple[str, float], tuple[float, float, float]] = {}
        self._reads_all = run_input.reads_all

    def run(self) -> Process[None]:
        """Decode every step."""
        run_input, env, replay, devices = self._run_input, self._env, self._run_input.replay, self._devices
        for device in devices:
            device.run_input.start(device.residency)
        ended_s = env.now
        for step in range(replay.num_steps):
            context = replay.context_tokens(step)
            for device in devices:
                device.step = step
                device.ledger.begin(step, int(context.max()), is_warmup=step < run_input.warmup_steps)
                if not context.all():
                    device.residency.end(context == 0)
            self._place, self._device = (step, None), devices[0]
            yield from self._launch("embed", self._batch)
            yield from self._layers(step, context)
            self._place = step, None
            head = yield from self._launch("head", self._batch)
            yield from self._wait(head)
            parts = self._compute.read_parts()
            for device in devices:
                device.ledger.end(env.now - ended_s, parts)
            ended_s = env.now
            if not self._profile.synchronous:
                yield from self._spend("sync_s", self._profile.sync_s)
            self._progress(1)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Return the rows of the finished run as columns."""
        for device in self._devices:
            device.ledger.finish()
        columns = [device.ledger.columns() for device in self._devices]
        return merged(columns, [len(layers) for layers, _ in self._parts])

    def _layers(self, step: int, context: IntArray) -> Process[None]:
        """Go through the layers, device by device; the hidden state has a way to go where the next begins."""
        for device, (layers, _) in zip(self._devices, self._parts, strict=True):
            hop = self._hop if device is not self._device else None
            self._device = device
            for place, layer in enumerate(layers):
                self._place = step, layer
                yield from self._layer(step, place, context, hop if place == 0 else None)

    def _layer(self, step: int, layer: int, context: IntArray, hop: Hop | None) -> Process[None]:
        device, profile = self._device, self._profile
        run_input, ledger = device.run_input, device.ledger
        reading = run_input.replay.at(step, layer, everything=self._reads_all)
        if hop is not None:
            yield from self._spend("submit_s", hop.submit_s)
        yield from self._launch("attention_input", self._batch, more_s=hop.transfer_s if hop is not None else 0.0)
        if run_input.predicts and layer + 1 < run_input.setting.grid.num_layers:
            yield from self._launch(SPECULATE, int(reading.num_pages.sum()))
        if not self._reads_all:
            scored = yield from self._launch("select", int(reading.num_pages.sum()))
            if run_input.policy.reads_selection:
                yield from self._wait(scored)
                yield from self._spend("sync_s", profile.sync_s)
        decision = device.residency.decide(
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
        waits_for = yield from device.copy(decision)
        yield from device.write_back(layer, context)
        tokens = self._attended_tokens(reading, context)
        device.last_attention = yield from self._launch("attention", tokens, waits_for)
        yield from self._launch("attention_output", self._batch)
        ledger.mass(reading.attended_frac)

    def _launch(
        self, segment: str, amount: float, waits_for: tuple[simpy.Event, ...] = (), *, more_s: float = 0.0
    ) -> Process[Work]:
        device_s, host_s, tail_s = self._cost(segment, amount)
        now_s = self._env.now
        work = Work(
            segment=SHOWN_AS.get(segment, segment),
            device_s=device_s + more_s,
            launch_s=now_s,
            host_end_s=now_s + host_s,
            tail_s=tail_s,
            waits_for=waits_for,
            place=self._place,
            copies=self._device.copies.to_device.busy,
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
        self._devices[0].ledger.host(name, time_s)
        if time_s:
            start_s = self._env.now
            yield self._env.timeout(time_s)
            self._hosted(name.removesuffix("_s"), start_s)

    def _hosted(self, name: str, start_s: float) -> None:
        if self._timeline is not None:
            self._timeline.hosted(name, self._place, start_s, self._env.now)

    def _attended_tokens(self, reading: Reading, context: IntArray) -> int:
        """Return the tokens in the selected pages: an open page is not full."""
        page_tokens = self._run_input.replay.page_tokens
        unfilled = reading.num_pages * page_tokens - context
        return int(reading.selected.size * page_tokens - unfilled.sum())
