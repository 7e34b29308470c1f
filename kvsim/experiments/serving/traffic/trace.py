"""Requests of a trace as sessions of turns: each by itself, as the trace says, or by what prompts begin with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kvsim.errors import ScenarioError, TraceError
from kvsim.experiments.serving.parameters import SchedulingParameters
from kvsim.experiments.serving.scenario import TraceChoice
from kvsim.experiments.serving.traffic.sessions import sessions_by_prefix, stated_sessions
from kvsim.experiments.serving.traffic.turns import Numbers, Turns, chain_table, engine_keys
from kvsim.traces.requests.base import Request
from kvsim.traces.requests.contents import check_contents, tokenised
from kvsim.traces.requests.hashing import hash_blocks
from kvsim.types import FloatArray, IntArray

_OWN = 2**62
"""Numbers of blocks that only one request has begin here, above all that stand for ids of a trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trace:
    """Requests that the engine takes, their blocks numbered in order of appearance."""

    requests: list[Request]
    prompt_tokens: IntArray
    output_tokens: IntArray
    id_tokens: int
    """Tokens that a block's number stands for."""
    num_dropped: int
    reading: str
    """How the trace was read, for people."""


def read_turns(
    choice: TraceChoice,
    parameters: SchedulingParameters,
    base_dir: Path | None,
    random: np.random.Generator,
    *,
    needs_times: bool = False,
) -> Turns:
    """Return the requests of a trace, session by session.

    A request without a prompt or without outputs counts as one of 1 token. Outputs are blocks that nobody had before,
    since traces do not show what was made of them.

    Parameters
    ----------
    needs_times
        Whether requests arrive at the trace's times; else nobody looks at them.

    Raises
    ------
    TraceError
        If the trace cannot be read, a request is longer than the engine takes, or times go backwards.
    ScenarioError
        If the trace needs what the scenario does not state.
    """
    trace = _read(choice, parameters, base_dir)
    groups = _sessions(choice, trace)
    if choice.shuffle:
        groups = [groups[place] for place in random.permutation(len(groups))]
    order = np.array([number for group in groups for number in group])
    own = Numbers(_OWN)
    return Turns(
        first=np.cumsum([0, *map(len, groups)]),
        prompt_tokens=trace.prompt_tokens[order],
        output_tokens=trace.output_tokens[order],
        chains=chain_table(
            _chain(choice, parameters, trace, place, number, own) for place, number in enumerate(order.tolist())
        ),
        start_s=_starts_s([trace.requests[group[0]] for group in groups], choice.sessions) if needs_times else None,
        delay_s=_delays_s([trace.requests[number] for number in order]) if choice.sessions == "stated" else None,
        num_dropped=trace.num_dropped,
        reading=trace.reading,
    )


def _read(choice: TraceChoice, parameters: SchedulingParameters, base_dir: Path | None) -> _Trace:
    opened = choice.open(base_dir)
    tokenizer = choice.tokenizer_from(base_dir)
    try:
        check_contents(opened, tokenizer=tokenizer, shared=choice.shared)
    except ScenarioError as error:
        raise ScenarioError(f"trace {choice.path}: {error}") from None
    rows: Iterator[Request] = itertools.islice(opened.requests, choice.num_requests)
    rows = rows if tokenizer is None else tokenised(rows, tokenizer)
    numbers: dict[int, int] = {}
    accepted: list[Request] = []
    lengths: list[tuple[int, int]] = []
    num_dropped = 0
    for request in rows:
        prompt_tokens, output_tokens = max(request.input_tokens, 1), _outputs(choice, request)
        if prompt_tokens + output_tokens > parameters.max_model_len:
            if not choice.drop_longer:
                raise TraceError(
                    request.place,
                    f"{prompt_tokens} tokens of prompt and {output_tokens} of output, and the engine takes "
                    f"{parameters.max_model_len} together: raise engine.max_model_len, or set trace.drop_longer = true",
                )
            num_dropped += 1
            continue
        accepted.append(_numbered(request, numbers, parameters.block_size))
        lengths.append((prompt_tokens, output_tokens))
    if not accepted:
        raise TraceError(opened.path, f"no requests in it that the engine takes ({num_dropped} are longer)")
    prompts, outputs = np.array(lengths, dtype=np.int64).T
    return _Trace(
        requests=accepted,
        prompt_tokens=prompts,
        output_tokens=outputs,
        id_tokens=opened.block_tokens if opened.format.contents == "blocks" else parameters.block_size,
        num_dropped=num_dropped,
        reading=opened.reading,
    )


def _outputs(choice: TraceChoice, request: Request) -> int:
    tokens = request.output_tokens if request.output_tokens is not None else choice.output_tokens
    if tokens is None:
        raise TraceError(
            request.place,
            "no length of the output, and an engine makes one: state trace.output_tokens, for all of them",
        )
    return max(tokens, 1)


def _numbered(request: Request, numbers: dict[int, int], block_tokens: int) -> Request:
    """Return a request without contents but the numbers of its blocks: those of the trace, or of its tokens."""
    blocks = request.blocks
    if request.token_ids is not None:
        blocks = hash_blocks(request.token_ids, block_tokens)
    if blocks is not None:
        blocks = tuple(numbers.setdefault(block, len(numbers)) for block in blocks)
    return replace(request, blocks=blocks, token_ids=None, text=None, output_text=None)


def _sessions(choice: TraceChoice, trace: _Trace) -> list[list[int]]:
    """Return the requests of each session."""
    if choice.sessions == "stated":
        return stated_sessions([request.session for request in trace.requests], choice.path)
    if choice.sessions == "none":
        return [[number] for number in range(len(trace.requests))]
    if any(request.blocks is None for request in trace.requests):
        raise ScenarioError(
            f"trace {choice.path}: its format has no contents to find sessions by: leave trace.sessions out"
        )
    return sessions_by_prefix([
        (request.blocks or ())[: request.input_tokens // trace.id_tokens] for request in trace.requests
    ])  # fmt: skip


def _starts_s(requests: Sequence[Request], sessions: str) -> FloatArray:
    """Return when each session began, counted from the first.

    Raises
    ------
    TraceError
        If a time is missing or goes backwards.
    """
    last_s = -np.inf
    for request in requests:
        if request.arrival_s is None:
            hint = "" if request.delay_s is None or sessions == "stated" else ", or set trace.sessions = 'stated'"
            raise TraceError(
                request.place,
                f"no time of arrival, which arrivals.process 'trace' takes: choose another process{hint}",
            )
        if request.arrival_s < last_s:
            raise TraceError(
                request.place,
                f"arrives at {request.arrival_s:g} s, before the request above it ({last_s:g} s): put the file in "
                "order, or choose another arrivals.process",
            )
        last_s = request.arrival_s
    times_s = np.array([request.arrival_s for request in requests], dtype=np.float64)
    starts_s: FloatArray = times_s - times_s[0]
    return starts_s


def _delays_s(requests: Sequence[Request]) -> FloatArray:
    """Return the delay that the trace states before each request, NaN where it states none."""
    return np.array([np.nan if request.delay_s is None else request.delay_s for request in requests])


def _chain(
    choice: TraceChoice, parameters: SchedulingParameters, trace: _Trace, place: int, number: int, own: Numbers
) -> IntArray:
    """Return the keys of one request: what its prompt is known to have, then blocks of its own."""
    block_tokens, blocks = parameters.block_size, trace.requests[number].blocks
    prompt_tokens, output_tokens = int(trace.prompt_tokens[number]), int(trace.output_tokens[number])
    if blocks is None:
        shared_tokens = choice.shared_tokens or 0
        known = np.arange(min(shared_tokens, prompt_tokens) // block_tokens)
        known += (place % choice.shared_by) * (shared_tokens // block_tokens)
    else:
        known = engine_keys(blocks, prompt_tokens=prompt_tokens, block_tokens=block_tokens, id_tokens=trace.id_tokens)
    return np.concatenate([known, own.take((prompt_tokens + output_tokens) // block_tokens - known.size)])
