"""Requests to a server as traces tell them: lengths, times, and the blocks of each prompt where a trace knows them.

A reader yields one `Request` a line and keeps none; `gather` turns requests with blocks into the arrays of a replay.
A block's id stands for its own tokens and everything before them, so it follows the same block wherever it occurs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvsim.errors import TraceError
from kvsim.types import BoolArray, FloatArray, IntArray

FIRST = -1
"""Parent of a block that begins a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request."""

    arrival_s: float | None
    """Seconds after the trace's start; None where the trace has no times."""
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] | None = None
    """Ids of the prompt's blocks, each after its parent; None where the trace tells nothing of contents."""
    prompt: str | None = None
    """The whole prompt, where the trace has its text; `input_tokens` then counts its UTF-8 bytes."""
    place: str = ""
    """File and line, for whoever finds a fault in it later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBlocks:
    """The requests of a trace as arrays; blocks are numbered from 0 in order of appearance."""

    arrival_s: FloatArray
    """``[num_requests]``; NaN where the trace has no times."""
    input_tokens: IntArray
    output_tokens: IntArray
    starts: IntArray
    """``[num_requests + 1]``: the blocks of request r are ``blocks[starts[r] : starts[r + 1]]``."""
    blocks: IntArray
    parents: IntArray
    """``[num_distinct]``: the block before each, `FIRST` for none."""
    block_tokens: int

    @property
    def num_requests(self) -> int:
        """Requests of the trace."""
        return int(self.input_tokens.size)

    @property
    def num_distinct(self) -> int:
        """Different blocks of the trace: a cache of so many never evicts."""
        return int(self.parents.size)

    @property
    def counts(self) -> IntArray:
        """Blocks of each request."""
        return np.diff(self.starts)

    @property
    def most_hits(self) -> IntArray:
        """Blocks that each request may hit: its last token is computed for its logits, and with it its block."""
        most: IntArray = np.minimum(self.counts, np.maximum(self.input_tokens - 1, 0) // self.block_tokens)
        return most


def gather(requests: Iterable[Request], *, block_tokens: int, source: Path | str) -> RequestBlocks:
    """Return requests with blocks as arrays, in the order given.

    Raises
    ------
    TraceError
        If there are none, a request has no blocks to tell, or a block has two parents.
    """
    arrivals_s: list[float] = []
    lengths: list[tuple[int, int]] = []
    pieces: list[IntArray] = []
    places: list[str] = []
    for request in requests:
        if request.blocks is None:
            raise TraceError(request.place or source, "the request tells nothing of its contents, so it has no blocks")
        arrivals_s.append(np.nan if request.arrival_s is None else request.arrival_s)
        lengths.append((request.input_tokens, request.output_tokens))
        pieces.append(np.array(request.blocks, dtype=np.int64))
        places.append(request.place)
    if not pieces:
        raise TraceError(source, "no requests in it")
    ids = np.concatenate(pieces)
    starts = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([piece.size for piece in pieces], out=starts[1:])
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(order.size)
    first, blocks = first[order], number[inverse].astype(np.int64)
    before = np.concatenate(([FIRST], blocks[:-1])).astype(np.int64)
    before[starts[:-1][np.diff(starts) > 0]] = FIRST
    parents = before[first]
    _check_parents(parents[blocks] != before, ids, starts, first[blocks], places, source)
    sizes = np.array(lengths, dtype=np.int64)
    return RequestBlocks(
        arrival_s=np.array(arrivals_s),
        input_tokens=sizes[:, 0],
        output_tokens=sizes[:, 1],
        starts=starts,
        blocks=blocks,
        parents=parents,
        block_tokens=block_tokens,
    )


def _check_parents(
    is_wrong: BoolArray, ids: IntArray, starts: IntArray, first: IntArray, places: list[str], source: Path | str
) -> None:
    """Refuse a block that follows different blocks in two places."""
    if not is_wrong.any():
        return
    at = int(np.argmax(is_wrong))
    request, earlier = (int(np.searchsorted(starts, place, side="right")) - 1 for place in (at, int(first[at])))
    raise TraceError(
        places[request] or source,
        f"block {int(ids[at])} follows {_before(ids, starts, at)} here and {_before(ids, starts, int(first[at]))} in "
        f"{places[earlier] or 'an earlier request'}; a block's id stands for everything before it, too",
    )


def _before(ids: IntArray, starts: IntArray, at: int) -> str:
    return "nothing" if at in starts else f"block {int(ids[at - 1])}"
