"""Mooncake's request traces: an id for every block of the prompt's tokens, times in milliseconds.

A row is ``{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]}``; the last block may be partial
and has an id of its own. After R. Qin et al., "Mooncake: Trading More Storage for Less Computation", FAST 2025.
AIPerf's rows are the same with ``session_id`` and, after a session's first request, ``delay`` (ms) for the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvsim.traces.requests.base import Request
from kvsim.traces.requests.block_ids import block_ids_of, fits
from kvsim.traces.requests.format import ReadOptions, RequestFormat
from kvsim.traces.rows import Row


def read(rows: Iterable[Row], options: ReadOptions) -> Iterator[Request]:
    """Yield the request of each row.

    Raises
    ------
    TraceError
        If a row is damaged, or has another number of ids than its length has blocks.
    """
    for row in rows:
        input_tokens, ids = block_ids_of(row, options.block_tokens, counts_partial=True, at_least=1)
        yield Request(
            arrival_s=row.seconds("timestamp", options.unit_s),
            delay_s=row.seconds("delay", options.unit_s),
            session=row.session("session_id"),
            input_tokens=input_tokens,
            output_tokens=row.count("output_length", at_least=0),
            blocks=ids,
            place=row.place,
        )


FORMAT = RequestFormat(
    name="mooncake",
    summary="ids of all blocks, a partial last one too; Mooncake, and AIPerf with sessions and delays",
    fields=("input_length", "output_length", "hash_ids"),
    contents="blocks",
    read=read,
    time_unit="ms",
    block_tokens=512,
    fits=fits(counts_partial=True),
)
