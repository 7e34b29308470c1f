"""Lengths of requests as Vidur has them: with arrivals in s (its Splitwise files), or without (arXiv summaries)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvsim.traces.requests.base import Request
from kvsim.traces.requests.format import ReadOptions, RequestFormat
from kvsim.traces.rows import Row


def read(rows: Iterable[Row], options: ReadOptions) -> Iterator[Request]:
    """Yield the request of each row.

    Raises
    ------
    TraceError
        If a row is damaged, or its total, where it has one, is not the sum of its parts.
    """
    for row in rows:
        prefill = row.count("num_prefill_tokens", at_least=1)
        decode = row.count("num_decode_tokens", at_least=0)
        if "num_total_tokens" in row.values and row.count("num_total_tokens", at_least=1) != prefill + decode:
            total = row.values["num_total_tokens"]
            raise row.error(f"num_total_tokens is {total}; its parts {prefill} and {decode} sum to {prefill + decode}")
        yield Request(
            arrival_s=row.seconds("arrived_at", options.unit_s),
            input_tokens=prefill,
            output_tokens=decode,
            place=row.place,
        )


FORMAT = RequestFormat(
    name="lengths",
    summary="lengths, with arrivals or without; Vidur",
    fields=("num_prefill_tokens", "num_decode_tokens"),
    contents="lengths",
    read=read,
    time_unit="s",
)
