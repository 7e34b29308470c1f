"""kvsim's own request traces: Mooncake's rows with ids for full blocks only, as vLLM shares them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from kvsim.traces.requests.base import Request
from kvsim.traces.requests.block_ids import block_ids_of, fits
from kvsim.traces.requests.format import ReadOptions, RequestFormat
from kvsim.traces.rows import Row


def read(rows: Iterable[Row], options: ReadOptions) -> Iterator[Request]:
    """Yield the request of each row, which has an id for each *full* block of its prompt.

    Raises
    ------
    TraceError
        If a row is damaged, or has another number of ids than its length has full blocks.
    """
    for row in rows:
        input_tokens, ids = block_ids_of(row, options.block_tokens, counts_partial=False, at_least=0)
        yield Request(
            arrival_s=row.seconds("timestamp", options.unit_s),
            input_tokens=input_tokens,
            output_tokens=row.count("output_length", at_least=0),
            blocks=ids,
            place=row.place,
        )


FORMAT = RequestFormat(
    name="full-blocks",
    summary="ids of full blocks only; kvsim's own, and what `kvsim measure` records",
    fields=("input_length", "output_length", "hash_ids"),
    contents="blocks",
    read=read,
    time_unit="ms",
    fits=fits(counts_partial=False),
)


def full_blocks_text(requests: Iterable[Request]) -> bytes:
    """Return requests with blocks as a file of this format; ids are numbered in order of appearance.

    Neither text nor tokens can be recovered from it.
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
