"""Requests of a trace, each a session of one turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kvsim.errors import TraceError
from kvsim.experiments.serving.knobs import SchedulingKnobs
from kvsim.experiments.serving.scenario import TraceChoice
from kvsim.experiments.serving.traffic.sessions import sessions_by_prefix
from kvsim.experiments.serving.traffic.turns import Numbers, Turns, chain_table, engine_keys
from kvsim.scenario.shipped import find_requests
from kvsim.traces.requests.base import Request
from kvsim.traces.requests.csv import read_azure, read_lengths
from kvsim.traces.requests.full_blocks import BLOCK_TOKENS as FULL_BLOCK_TOKENS
from kvsim.traces.requests.full_blocks import read_full_blocks
from kvsim.traces.requests.mooncake import BLOCK_TOKENS as MOONCAKE_TOKENS
from kvsim.traces.requests.mooncake import read_mooncake
from kvsim.types import IntArray

_OWN = 2**62
"""Numbers of blocks that only one request has begin here, above all ids of a trace."""


def read_turns(
    choice: TraceChoice, knobs: SchedulingKnobs, base_dir: Path | None, random: np.random.Generator
) -> Turns:
    """Return the requests of a trace, session by session.

    A request without a prompt or without outputs counts as one of 1 token. Outputs are blocks that nobody had before,
    since traces do not show what was made of them.

    Raises
    ------
    TraceError
        If the trace cannot be read, a request is longer than the engine takes, or times go backwards.
    """
    path = find_requests(choice.path, base_dir)
    num_dropped, last_s = 0, 0.0
    kept: list[Request] = []
    for request in itertools.islice(_rows(choice, path), choice.num_requests):
        if _prompt(request) + _outputs(request) > knobs.max_model_len:
            if not choice.drop_longer:
                raise TraceError(
                    request.place,
                    f"{_prompt(request)} tokens of prompt and {_outputs(request)} of output, and the engine takes "
                    f"{knobs.max_model_len} together: raise engine.max_model_len, or set trace.drop_longer = true",
                )
            num_dropped += 1
            continue
        if request.arrival_s is not None and request.arrival_s < last_s:
            raise TraceError(
                request.place, f"arrives at {request.arrival_s:g} s, before the request above it ({last_s:g} s)"
            )
        last_s = request.arrival_s or 0.0
        kept.append(request)
    if not kept:
        raise TraceError(path, f"no requests in it that the engine takes ({num_dropped} are longer)")
    groups = [[number] for number in range(len(kept))]
    if choice.sessions == "by-prefix":
        groups = sessions_by_prefix([_full_blocks(choice, request) for request in kept])
    if choice.shuffle:
        groups = [groups[place] for place in random.permutation(len(groups))]
    arrivals = [kept[group[0]].arrival_s for group in groups]
    times = np.array([0.0 if at_s is None else at_s for at_s in arrivals])
    kept = [kept[number] for group in groups for number in group]
    own = Numbers(_OWN)
    return Turns(
        first=np.cumsum([0, *map(len, groups)]),
        prompt_tokens=np.array([_prompt(request) for request in kept]),
        output_tokens=np.array([_outputs(request) for request in kept]),
        chains=chain_table(_chain(choice, knobs, number, request, own) for number, request in enumerate(kept)),
        start_s=None if None in arrivals or choice.shuffle else times - times[0],
        num_dropped=num_dropped,
    )


def _rows(choice: TraceChoice, path: Path) -> Iterator[Request]:
    if choice.format == "mooncake":
        return read_mooncake(path, block_tokens=_id_tokens(choice))
    if choice.format == "full-blocks":
        return read_full_blocks(path, block_tokens=_id_tokens(choice))
    return read_azure(path) if choice.format == "azure" else read_lengths(path)


def _id_tokens(choice: TraceChoice) -> int:
    return choice.block_tokens or (MOONCAKE_TOKENS if choice.format == "mooncake" else FULL_BLOCK_TOKENS)


def _full_blocks(choice: TraceChoice, request: Request) -> tuple[int, ...]:
    return (request.blocks or ())[: request.input_tokens // _id_tokens(choice)]


def _prompt(request: Request) -> int:
    return max(request.input_tokens, 1)


def _outputs(request: Request) -> int:
    return max(request.output_tokens, 1)


def _chain(choice: TraceChoice, knobs: SchedulingKnobs, number: int, request: Request, own: Numbers) -> IntArray:
    """Return the keys of one request: what its prompt is known to have, then blocks of its own."""
    block_tokens = knobs.block_size
    if request.blocks is None:
        shared = min(choice.shared_tokens, _prompt(request)) // block_tokens
        known = np.arange(shared) + (number % choice.shared_by) * (choice.shared_tokens // block_tokens)
    else:
        known = engine_keys(
            request.blocks,
            prompt_tokens=_prompt(request),
            block_tokens=block_tokens,
            id_tokens=_id_tokens(choice),
        )
    num_blocks = (_prompt(request) + _outputs(request)) // block_tokens
    return np.concatenate([known, own.take(num_blocks - known.size)])
