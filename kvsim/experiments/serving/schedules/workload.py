"""Workload files: requests with token ids for one engine, and what a scheduler did with them, step by step.

A file is JSON, plain or gzip. Requests arrive by step, after another request's end, or (in files recorded by wall
clock) with the step before which they were added. A recorded file has `outputs` and `steps` besides.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kvsim.errors import TraceError
from kvsim.experiments.serving.parameters import Count, EngineParameters, Whole
from kvsim.scenario.regular_files import read_unpacked
from kvsim.scenario.toml import Strict

MAX_WORKLOAD_BYTES = 2**30
"""No workload file is larger, unpacked."""

_MODEL_SHORT = 1  # the model must have room for one output

RequestTokens: TypeAlias = tuple[str, Count]
"""A request's id and its tokens."""
BlockName: TypeAlias = tuple[str, Whole]
"""A block, named by the first request in order of arrival that had this chain of tokens, and its place there."""


class OutputSegment(Strict):
    """The first outputs of a request that has finished before."""

    output_of: str
    length: Count


Segment: TypeAlias = tuple[Whole, Count] | tuple[Whole, Count, Whole] | OutputSegment
"""``[seed, length]`` or ``[seed, length, start]`` (`kvsim.experiments.serving.schedules.tokens`), or other outputs."""


class WorkloadRequest(Strict):
    """One request of a workload."""

    id: Annotated[str, Field(min_length=1)]
    segments: Annotated[tuple[Segment, ...], Field(min_length=1)]
    """Its prompt, in pieces."""
    max_tokens: Count
    """Outputs; as many come unless `max_model_len` stops them or the file's outputs are fewer."""
    arrival_step: Whole | None = None
    """It is added before this step of the engine, counted from 0; when the engine is idle, at once."""
    after: tuple[str, Count] | None = None
    """It is added so many steps after the one in which another request finished."""
    arrival_s: Annotated[float, Field(ge=0)] | None = None
    """When it arrived by wall clock; `arrival_step` says before which step."""
    priority: int = 0
    arrival_time: float | None = None
    """What ties of `priority` are broken by; its place in the file if absent."""

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return sum(piece.length if isinstance(piece, OutputSegment) else piece[1] for piece in self.segments)

    @model_validator(mode="after")
    def _check_arrival(self) -> WorkloadRequest:
        if (self.arrival_step is None) == (self.after is None):
            hint = " (recording adds it to a workload by wall clock)" if self.arrival_s is not None else ""
            raise ValueError(f"request {self.id!r} needs one of arrival_step{hint} and after")
        return self


class RecordedStep(BaseModel):
    """One call of the scheduler."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    scheduled: tuple[RequestTokens, ...]
    """The batch in order."""
    admitted: tuple[tuple[str, Whole], ...]
    """Requests new in the batch, in order, with the tokens that the prefix cache had of them."""
    preempted: tuple[str, ...]
    """Sorted by id; `preempted_order` has their order, if they are several."""
    preempted_order: tuple[str, ...] | None = None
    finished: tuple[str, ...]
    """At the step's end, in order."""
    evicted: tuple[BlockName, ...]
    """Cached blocks that were handed out again, in order."""
    stored: tuple[tuple[str, Whole, Count], ...] | None = None
    """Blocks that were cached, in order, in runs: the name of the first and how many."""
    free_blocks: Whole
    """After scheduling."""
    free_after: Whole | None = None
    """At the step's end."""
    running: Whole
    waiting: Whole


class Workload(Strict):
    """A workload and, if it was recorded, what came of it."""

    name: str = ""
    note: str = ""
    engine: EngineParameters
    clock: Literal["steps", "wall"] = "steps"
    requests: Annotated[tuple[WorkloadRequest, ...], Field(min_length=1)]
    outputs: dict[str, tuple[Whole, ...]] | None = None
    """Sampled token ids by request id; invented where absent (`kvsim.experiments.serving.schedules.tokens`)."""
    steps: tuple[RecordedStep, ...] | None = None
    made_by: dict[str, Any] | None = None
    resolved: dict[str, Any] | None = None
    totals: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check_requests(self) -> Workload:
        places = {request.id: place for place, request in enumerate(self.requests)}
        if len(places) < len(self.requests):
            ids = [request.id for request in self.requests]
            raise ValueError(f"two requests are called {next(name for name in ids if ids.count(name) > 1)!r}")
        for request in self.requests:
            others = [piece.output_of for piece in request.segments if isinstance(piece, OutputSegment)]
            others += [request.after[0]] if request.after else []
            unknown = [name for name in others if name not in places]
            if unknown:
                raise ValueError(f"request {request.id!r} names {unknown[0]!r}, and there is no such request")
            if request.prompt_tokens + _MODEL_SHORT > self.engine.max_model_len:
                raise ValueError(
                    f"request {request.id!r} has a prompt of {request.prompt_tokens} tokens; with max_model_len = "
                    f"{self.engine.max_model_len} it can have {self.engine.max_model_len - _MODEL_SHORT} at most"
                )
            if self.outputs is not None and not 1 <= len(self.outputs.get(request.id, ())) <= request.max_tokens:
                raise ValueError(
                    f"outputs has {len(self.outputs.get(request.id, ()))} tokens of request {request.id!r}, which asks "
                    f"for {request.max_tokens}: give 1 to {request.max_tokens}, or no outputs at all"
                )
        return self


def read_workload(path: Path) -> Workload:
    """Read a workload file.

    Raises
    ------
    TraceError
        If it cannot be read or says something that cannot be replayed: one line with the first problem.
    """
    try:
        text = read_unpacked(path, MAX_WORKLOAD_BYTES)
    except (OSError, EOFError, zlib.error) as problem:
        raise TraceError(path, f"cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    try:
        return Workload.model_validate_json(text)
    except ValidationError as problem:
        raise TraceError(path, _first_line(problem)) from None


def _first_line(problem: ValidationError) -> str:
    """Return the first of pydantic's complaints as ``requests[3].max_tokens: message``."""
    first = problem.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:] if first["type"] != "value_error" else message
    return f"{place}: {message}" if place else message
