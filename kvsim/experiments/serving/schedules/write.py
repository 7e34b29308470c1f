"""Writes the schedule of a workload as a workload file, with the fields of a recorded one."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from kvsim import __version__
from kvsim.errors import ResultError
from kvsim.experiments.serving.core import make_core
from kvsim.experiments.serving.schedules.prepare import Replayable, prepare, resolved
from kvsim.experiments.serving.schedules.replay import drive
from kvsim.experiments.serving.schedules.workload import RecordedStep, Workload
from kvsim.scenario.whole_files import replacing

_TOTALS = ("requests", "steps", "tokens", "hit_tokens", "admissions", "preemptions", "evictions")


def write_schedule(
    path: Path, workload: Workload, scheduler: str = "vllm", arguments: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Replay a workload, write it with its steps to `path` (gzip if that ends in ``.gz``) and return the totals.

    Steps are written as they come; the file appears under its name when it is complete.

    Parameters
    ----------
    scheduler, arguments
        As in `kvsim.experiments.serving.core.make_core`.

    Raises
    ------
    ResultError
        If the file cannot be written.
    """
    replayable = prepare(workload)
    core = make_core(workload.engine, replayable.requests, replayable.chains, scheduler, arguments, records_keys=True)
    totals = dict.fromkeys(_TOTALS, 0) | {"requests": len(workload.requests)}
    try:
        with (
            replacing(path) as partial,
            partial.open("wb") as raw,
            _text_writer(raw, is_gzip=path.suffix == ".gz") as file,
        ):
            file.write(_compact(_head(workload, replayable, scheduler))[:-1] + ',"steps":[')
            for number, step in enumerate(drive(core, workload, replayable)):
                file.write(("," if number else "") + step.model_dump_json(exclude_none=True))
                _count(totals, step)
            file.write(f'],"totals":{_compact(totals)}}}\n')
    except OSError as problem:
        raise ResultError(f"{path}: cannot be written: {problem.strerror}") from None
    return totals


def _head(workload: Workload, replayable: Replayable, scheduler: str) -> dict[str, Any]:
    fields = {"name", "note", "engine", "clock", "requests"}
    return {
        **workload.model_dump(mode="json", include=fields, exclude_none=True),
        "made_by": {"kvsim": __version__, "scheduler": scheduler, "format": 1},
        "resolved": resolved(workload.engine),
        "outputs": {request.id: ids for request, ids in zip(workload.requests, replayable.outputs, strict=True)},
    }


def _text_writer(raw: BinaryIO, *, is_gzip: bool) -> TextIO:
    """Return a writer of text to an open file; compressed, equal contents give equal files."""
    binary = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) if is_gzip else raw
    return io.TextIOWrapper(cast("BinaryIO", binary), encoding="utf-8")


def _compact(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _count(totals: dict[str, int], step: RecordedStep) -> None:
    totals["steps"] += 1
    totals["tokens"] += sum(tokens for _, tokens in step.scheduled)
    totals["hit_tokens"] += sum(tokens for _, tokens in step.admitted)
    totals["admissions"] += len(step.admitted)
    totals["preemptions"] += len(step.preempted)
    totals["evictions"] += len(step.evicted)
