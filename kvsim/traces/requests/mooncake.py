"""Reads Mooncake's request traces: one JSON object a line, with an id for every block of the prompt's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvsim.errors import TraceError
from kvsim.traces.lines import MAX_TIME, count_of, lines_of, object_of
from kvsim.traces.requests.base import Request

BLOCK_TOKENS = 512
"""Tokens of a block in the traces that Mooncake published."""


def read_mooncake(path: Path, *, block_tokens: int = BLOCK_TOKENS) -> Iterator[Request]:
    """Yield the requests of a JSONL file, ``.gz`` or not, in its order.

    A row is ``{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}`` with an id for every
    `block_tokens` tokens of the prompt; the last block may be partial and has an id of its own. After R. Qin et al.,
    "Mooncake: Trading More Storage for Less Computation", FAST 2025.

    Raises
    ------
    TraceError
        Naming file and line, if a row is damaged, or has another number of ids than its length has blocks.
    """
    for line, text in lines_of(path):
        row = object_of(text, path, line)
        input_tokens = count_of(row, "input_length", path, line, at_least=1)
        ids = ids_of(row, path, line)
        num_blocks = -(-input_tokens // block_tokens)
        if len(ids) != num_blocks:
            raise TraceError(
                path,
                f"input_length {input_tokens} is {num_blocks} blocks of {block_tokens} tokens, hash_ids has {len(ids)}",
                line=line,
            )
        yield Request(
            arrival_s=count_of(row, "timestamp", path, line, at_least=0, below=MAX_TIME) * 1e-3,
            input_tokens=input_tokens,
            output_tokens=count_of(row, "output_length", path, line, at_least=0),
            blocks=tuple(ids),
            place=f"{path}:{line}",
        )


def ids_of(row: dict[str, Any], path: Path, line: int) -> list[int]:
    """Return the block ids of one row.

    Raises
    ------
    TraceError
        If they are no list of whole numbers that 63 bits hold.
    """
    ids = row.get("hash_ids")
    is_list = isinstance(ids, list) and set(map(type, ids)) <= {int}
    if not isinstance(ids, list) or not is_list or (ids and not (min(ids) >= 0 and max(ids) < 2**63)):
        raise TraceError(path, "hash_ids should be a list of whole numbers from 0 on", line=line)
    return ids
