"""Requests to a server as traces record them, and the arrays of their blocks that a replay takes.

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One request. Of `blocks`, `token_ids` and `text` a trace has one, or none where it records lengths only."""

    arrival_s: float | None
    """Seconds after the trace's start; None where the trace has no times."""
    input_tokens: int
    """Of the prompt; where only its text is known, bytes of UTF-8."""
    output_tokens: int | None
    """None where the trace does not record it; where only text is known, bytes of UTF-8."""
    blocks: tuple[int, ...] | None = None
    """Ids of the prompt's blocks, each after its parent."""
    token_ids: IntArray | None = None
    """The prompt's tokens."""
    text: str | None = None
    """The prompt."""
    output_text: str | None = None
    session: str | None = None
    """Requests of one conversation have the same; None where the trace has no sessions."""
    delay_s: float | None = None
    """Seconds from the answer of the session's last request to this request, which then has no `arrival_s`."""
    place: str = ""
    """File and line, for an error that is noticed later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBlocks:
    """The requests of a trace as arrays; blocks are numbered from 0 in order of appearance."""

    arrival_s: FloatArray
    """``[num_requests]``; NaN where the trace has no times."""
    input_tokens: IntArray
    starts: IntArray
    """``[num_requests + 1]``: the blocks of request r are ``blocks[starts[r] : starts[r + 1]]``."""
    blocks: IntArray
    parents: IntArray
    """``[num_distinct]``: the block before each, `FIRST` for none."""
    block_tokens: int
    reading: str = ""
    """How the trace was read, for people: format, block size and unit of time."""

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


def gather(requests: Iterable[Request], *, block_tokens: int, source: Path | str, reading: str = "") -> RequestBlocks:
    """Return requests with blocks as arrays, in the order given.

    Raises
    ------
    TraceError
        If there are none, a request has no blocks, or a block has two parents.
    """
    arrivals_s: list[float] = []
    lengths: list[int] = []
    pieces: list[IntArray] = []
    places: list[str] = []
    for request in requests:
        if request.blocks is None:
            raise TraceError(request.place or source, "the request has no block ids")
        arrivals_s.append(np.nan if request.arrival_s is None else request.arrival_s)
        lengths.append(request.input_tokens)
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
    return RequestBlocks(
        arrival_s=np.array(arrivals_s),
        input_tokens=np.array(lengths, dtype=np.int64),
        starts=starts,
        blocks=blocks,
        parents=parents,
        block_tokens=block_tokens,
        reading=reading,
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
