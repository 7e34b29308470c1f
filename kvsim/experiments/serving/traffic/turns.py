"""Sessions of requests before they have times: lengths, and keys of the blocks that their tokens fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kvsim.caches.blocks import ChainTable
from kvsim.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """The requests of all sessions, session by session."""

    first: IntArray
    """``[num_sessions + 1]``: where the requests of each session begin."""
    prompt_tokens: IntArray
    output_tokens: IntArray
    chains: ChainTable
    """Keys of the full blocks of each request's prompt and outputs."""
    start_s: FloatArray | None = None
    """``[num_sessions]``: when each session began in a trace; None where nobody asked."""
    delay_s: FloatArray | None = None
    """``[num_requests]``: the pause that a trace states before a request, NaN where it states none."""
    num_dropped: int = 0
    """Requests that were left out because the engine does not take them."""
    num_cut: int = 0
    """Prompts that were cut to what the engine takes."""
    reading: str = ""
    """How a trace was read, for people."""


class Numbers:
    """Numbers that nobody had before, for blocks of tokens that only one request has."""

    def __init__(self, first: int = 0) -> None:
        self._next = first

    def take(self, count: int) -> IntArray:
        """Return so many new numbers."""
        self._next += count
        return np.arange(self._next - count, self._next)


def chain_table(chains: Iterable[IntArray]) -> ChainTable:
    """Return chains of any numbers as a table whose keys are numbered from 0."""
    pieces = [np.asarray(chain, dtype=np.int64) for chain in chains]
    starts = np.zeros(len(pieces) + 1, dtype=np.int64)
    np.cumsum([piece.size for piece in pieces], out=starts[1:])
    keys = np.unique(np.concatenate(pieces), return_inverse=True)[1] if pieces else np.zeros(0, dtype=np.int64)
    return ChainTable(keys.astype(np.int64), starts)


def engine_keys(ids: Sequence[int] | IntArray, *, prompt_tokens: int, block_tokens: int, id_tokens: int) -> IntArray:
    """Return numbers for the full blocks of a prompt from the ids that a trace gives its own blocks.

    An id stands for everything up to the end of its block, so a block of the engine that ends with a block of the trace
    takes that one's id. Where blocks of the trace are longer, each is as many parts as fit the engine's.

    Parameters
    ----------
    ids
        One for each block of `id_tokens` tokens of the prompt; those of a trace are at least as many as full blocks.

    Examples
    --------
    >>> engine_keys([7, 9], prompt_tokens=64, block_tokens=16, id_tokens=32).tolist()
    [14, 15, 18, 19]
    >>> engine_keys([7, 9, 4], prompt_tokens=47, block_tokens=32, id_tokens=16).tolist()
    [9]
    """
    part_tokens = int(np.gcd(block_tokens, id_tokens))
    parts_of_id, parts_of_block = id_tokens // part_tokens, block_tokens // part_tokens
    parts = (np.asarray(ids, dtype=np.int64)[:, None] * parts_of_id + np.arange(parts_of_id)).ravel()
    num_blocks = min(prompt_tokens // block_tokens, parts.size // parts_of_block)
    return parts[parts_of_block - 1 :: parts_of_block][:num_blocks]
