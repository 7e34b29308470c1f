"""Replays a workload step by step, without a clock, and writes what was scheduled as a workload file."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from kvsim import __version__
from kvsim.errors import PolicyError
from kvsim.experiments.serving.arrivals import ArrivalsByStep
from kvsim.experiments.serving.setup import Replayable, make_core, prepare, resolved
from kvsim.experiments.serving.workload import RecordedStep, Workload
from kvsim.policies.schedulers import Core, Step


def replay(
    workload: Workload, scheduler: str = "vllm", arguments: Mapping[str, Any] | None = None
) -> Iterator[RecordedStep]:
    """Yield every step of a workload, one for each call of the scheduler.

    Parameters
    ----------
    scheduler, arguments
        As in `kvsim.experiments.serving.setup.make_core`.
    """
    replayable = prepare(workload)
    core = make_core(workload.engine, replayable, scheduler, arguments)
    yield from drive(core, workload, replayable)


def drive(core: Core, workload: Workload, replayable: Replayable) -> Iterator[RecordedStep]:
    """Yield every step of a workload on this core.

    Raises
    ------
    PolicyError
        If the scheduler leaves all requests waiting for ever.
    """
    arrivals = ArrivalsByStep(workload)
    depth = 2 if workload.engine.async_scheduling else 1
    num_steps = num_in_flight = 0
    while arrivals or core.num_unfinished:
        for place in arrivals.take(num_steps, is_idle=core.num_unfinished == 0):
            core.add(place)
        step = core.schedule()
        num_in_flight += 1
        after_scheduling = core.num_free_blocks, core.num_running, core.num_waiting
        if num_in_flight == 1 and not step.scheduled:
            raise PolicyError(f"step {num_steps}: nothing is scheduled while {core.num_unfinished} requests wait")
        row = _row(step, workload, replayable)
        finished: Sequence[int] = ()
        if num_in_flight == depth:
            finished = core.update().finished
            num_in_flight -= 1
        for place in finished:
            arrivals.finish(place, num_steps)
        num_steps += 1
        free_blocks, running, waiting = after_scheduling
        yield RecordedStep(
            **row,
            finished=tuple(workload.requests[place].id for place in finished),
            free_blocks=free_blocks,
            free_after=core.num_free_blocks,
            running=running,
            waiting=waiting,
        )


def write_schedule(
    path: Path, workload: Workload, scheduler: str = "vllm", arguments: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Replay a workload, write it with its steps to `path` (gzip if that ends in ``.gz``) and return the totals.

    The file has the fields of a recorded one: whoever has both can compare them. Steps are written as they come.
    """
    replayable = prepare(workload)
    core = make_core(workload.engine, replayable, scheduler, arguments)
    totals = dict.fromkeys(("requests", "steps", "tokens", "hit_tokens", "admissions", "preemptions", "evictions"), 0)
    totals["requests"] = len(workload.requests)
    text = workload.model_dump(mode="json", include={"name", "note", "engine", "clock", "requests"}, exclude_none=True)
    text["made_by"] = {"kvsim": __version__, "scheduler": scheduler, "format": 1}
    text["resolved"] = resolved(workload.engine)
    text["outputs"] = {request.id: ids for request, ids in zip(workload.requests, replayable.outputs, strict=True)}
    with open_text(path) as file:
        file.write(_compact(text)[:-1] + ',"steps":[')
        for number, step in enumerate(drive(core, workload, replayable)):
            file.write(("," if number else "") + step.model_dump_json(exclude_none=True))
            _count(totals, step)
        file.write(f'],"totals":{_compact(totals)}}}\n')
    return totals


def open_text(path: Path) -> TextIO:
    """Open a file for writing text, compressed if its name ends in ``.gz``; equal contents give equal files."""
    if path.suffix != ".gz":
        return path.open("w", encoding="utf-8")
    return io.TextIOWrapper(gzip.GzipFile(path, "wb", mtime=0), encoding="utf-8")


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _count(totals: dict[str, int], step: RecordedStep) -> None:
    totals["steps"] += 1
    totals["tokens"] += sum(tokens for _, tokens in step.scheduled)
    totals["hit_tokens"] += sum(tokens for _, tokens in step.admitted)
    totals["admissions"] += len(step.admitted)
    totals["preemptions"] += len(step.preempted)
    totals["evictions"] += len(step.evicted)


def _row(step: Step, workload: Workload, replayable: Replayable) -> dict[str, Any]:
    """Return what a step says, with the ids of requests and the names of blocks."""
    ids = [request.id for request in workload.requests]
    preempted = [ids[place] for place in step.preempted]
    names = [(ids[place], index) for place, index in map(replayable.key_names.__getitem__, step.evicted)]
    return {
        "scheduled": tuple((ids[place], tokens) for place, tokens in step.scheduled),
        "admitted": tuple((ids[place], hit_tokens) for place, hit_tokens in step.admitted),
        "preempted": tuple(sorted(preempted)),
        "preempted_order": tuple(preempted) if len(preempted) > 1 else None,
        "evicted": tuple(names),
        "stored": tuple(
            _runs([(ids[place], index) for place, index in map(replayable.key_names.__getitem__, step.stored)])
        ),
    }


def _runs(names: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Yield runs of blocks that follow each other in one request: the first one's name and how many they are."""
    start = 0
    for end in range(1, len(names) + 1):
        if end == len(names) or names[end] != (names[start][0], names[start][1] + end - start):
            yield *names[start], end - start
            start = end
