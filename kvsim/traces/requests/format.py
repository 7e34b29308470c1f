"""What a format of request traces is: the fields by which its rows are known, and how they become requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kvsim.traces.requests.base import Request
from kvsim.traces.rows import Row

TimeUnit: TypeAlias = Literal["s", "ms", "us", "ns"]
SECONDS: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}

Contents: TypeAlias = Literal["blocks", "tokens", "text", "lengths"]
"""What a trace records of prompts: ids of blocks, ids of tokens, text, or lengths only."""

DEFAULT_BLOCK_TOKENS = 16
"""vLLM's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """What a reader must know besides the rows."""

    block_tokens: int
    unit_s: float = 1.0
    """Seconds of one unit of the rows' times."""


def _any_size(rows: Sequence[Row], block_tokens: int) -> bool:
    del rows, block_tokens
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFormat:
    """One format; `kvsim.traces.requests.registry` lists them."""

    name: str
    summary: str
    """One line for people."""
    fields: tuple[str, ...]
    """What every row has; a file whose rows have all of them may be of this format."""
    contents: Contents
    read: Callable[[Iterable[Row], ReadOptions], Iterator[Request]]
    time_unit: TimeUnit | None = None
    """Unit of numeric times; None where rows have none, or dates."""
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    """Tokens of a block unless one says otherwise."""
    fits: Callable[[Sequence[Row], int], bool] = _any_size
    """Whether rows agree with a block size, where they show it."""
