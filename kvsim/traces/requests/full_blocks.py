"""Reads and writes kvsim's own request traces: Mooncake's rows with ids for full blocks only, as vLLM shares them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from kvsim.errors import TraceError
from kvsim.traces.lines import MAX_TIME, count_of, lines_of, object_of
from kvsim.traces.requests.base import Request
from kvsim.traces.requests.mooncake import ids_of

BLOCK_TOKENS = 16
"""vLLM's default."""


def read_full_blocks(path: Path, *, block_tokens: int = BLOCK_TOKENS) -> Iterator[Request]:
    """Yield the requests of a JSONL file, ``.gz`` or not; a row has an id for each *full* block of its prompt.

    Raises
    ------
    TraceError
        Naming file and line, if a row is damaged, or has another number of ids than its length has full blocks.
    """
    for line, text in lines_of(path):
        row = object_of(text, path, line)
        input_tokens = count_of(row, "input_length", path, line, at_least=0)
        ids = ids_of(row, path, line)
        if len(ids) != input_tokens // block_tokens:
            raise TraceError(
                path,
                f"input_length {input_tokens} is {input_tokens // block_tokens} full blocks of {block_tokens} tokens, "
                f"hash_ids has {len(ids)}",
                line=line,
            )
        yield Request(
            arrival_s=count_of(row, "timestamp", path, line, at_least=0, below=MAX_TIME) * 1e-3,
            input_tokens=input_tokens,
            output_tokens=count_of(row, "output_length", path, line, at_least=0),
            blocks=tuple(ids),
            place=f"{path}:{line}",
        )


def full_blocks_text(requests: Iterable[Request]) -> bytes:
    """Return requests with blocks as the text that `read_full_blocks` reads; ids are numbered in order of appearance.

    No text and no token can be told from it.
    """
    numbers: dict[int, int] = {}
    rows = [
        {
            "timestamp": round((request.arrival_s or 0.0) * 1e3),
            "input_length": request.input_tokens,
            "output_length": request.output_tokens,
            "hash_ids": [numbers.setdefault(block, len(numbers)) for block in request.blocks or ()],
        }
        for request in requests
    ]
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()
