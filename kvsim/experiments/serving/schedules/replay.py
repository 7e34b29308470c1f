"""Replays a workload step by step, without a clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kvsim.errors import PolicyError
from kvsim.experiments.serving.core import make_core
from kvsim.experiments.serving.schedules.arrivals import ArrivalsByStep
from kvsim.experiments.serving.schedules.prepare import Replayable, prepare
from kvsim.experiments.serving.schedules.workload import BlockName, RecordedStep, RequestTokens, Workload
from kvsim.policies.schedulers import Core


def replay(
    workload: Workload, scheduler: str = "vllm", arguments: Mapping[str, Any] | None = None, *, compiled: bool = True
) -> Iterator[RecordedStep]:
    """Yield every step of a workload, one for each call of the scheduler.

    Parameters
    ----------
    scheduler, arguments, compiled
        As in `kvsim.experiments.serving.core.make_core`.
    """
    replayable = prepare(workload)
    core = make_core(
        workload.engine,
        replayable.requests,
        replayable.chains,
        scheduler,
        arguments,
        compiled=compiled,
        records_keys=True,
    )
    yield from drive(core, workload, replayable)


def drive(core: Core, workload: Workload, replayable: Replayable) -> Iterator[RecordedStep]:
    """Yield every step of a workload on this core.

    With asynchronous scheduling two steps are in flight: a request counts as finished in the step that was scheduled
    last before its last token came.

    Raises
    ------
    PolicyError
        If the scheduler leaves all requests waiting for ever: nothing is scheduled, preempted or in flight.
    """
    arrivals, names = ArrivalsByStep(workload), _Names(workload, replayable)
    depth = 2 if workload.engine.async_scheduling else 1
    num_steps = num_in_flight = 0
    while arrivals or core.num_unfinished:
        for place in arrivals.take(num_steps, is_idle=core.num_unfinished == 0):
            core.add(place)
        step = core.schedule()
        num_in_flight += 1
        if num_in_flight == 1 and not (step.work.requests or step.preempted or core.num_transfers):
            raise PolicyError(f"step {num_steps}: nothing is scheduled while {core.num_unfinished} requests wait")
        preempted = [names.ids[place] for place in step.preempted]
        row: dict[str, Any] = {
            "scheduled": names.requests(step.scheduled),
            "admitted": names.requests(step.admitted),
            "preempted": tuple(sorted(preempted)),
            "preempted_order": tuple(preempted) if len(preempted) > 1 else None,
            "evicted": names.blocks(step.evicted),
            "stored": tuple(_runs(names.blocks(step.stored))),
            "free_blocks": core.num_free_blocks,
            "running": core.num_running,
            "waiting": core.num_waiting,
        }
        finished: Sequence[int] = ()
        if num_in_flight == depth:
            finished = core.update().finished
            num_in_flight -= 1
        for place in finished:
            arrivals.finish(place, num_steps)
        num_steps += 1
        yield RecordedStep(
            **row, finished=tuple(names.ids[place] for place in finished), free_after=core.num_free_blocks
        )


class _Names:
    """What recorded files call requests and blocks."""

    def __init__(self, workload: Workload, replayable: Replayable) -> None:
        self.ids = [request.id for request in workload.requests]
        self._blocks = [(self.ids[place], index) for place, index in replayable.key_names]

    def requests(self, rows: Sequence[tuple[int, int]]) -> tuple[RequestTokens, ...]:
        return tuple((self.ids[place], tokens) for place, tokens in rows)

    def blocks(self, keys: Sequence[int]) -> tuple[BlockName, ...]:
        return tuple(self._blocks[key] for key in keys)


def _runs(names: Sequence[BlockName]) -> Iterator[tuple[str, int, int]]:
    """Yield runs of blocks that follow each other in one request: the first one's name and how many they are."""
    start = 0
    for end in range(1, len(names) + 1):
        if end == len(names) or names[end] != (names[start][0], names[start][1] + end - start):
            yield *names[start], end - start
            start = end
