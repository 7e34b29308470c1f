"""Azure's LLM inference traces: dates and lengths.

After P. Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting", ISCA 2024.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from kvsim.traces.requests.base import Request
from kvsim.traces.requests.format import ReadOptions, RequestFormat
from kvsim.traces.rows import Row


def read(rows: Iterable[Row], options: ReadOptions) -> Iterator[Request]:
    """Yield the request of each row; times count from the first one.

    Raises
    ------
    TraceError
        If a row is damaged.
    """
    del options
    start: datetime | None = None
    for row in rows:
        moment = _moment_of(row)
        start = start or moment
        yield Request(
            arrival_s=None if moment is None or start is None else (moment - start).total_seconds(),
            input_tokens=row.count("ContextTokens", at_least=1),
            output_tokens=row.count("GeneratedTokens", at_least=0),
            place=row.place,
        )


def _moment_of(row: Row) -> datetime | None:
    value = row.values.get("TIMESTAMP")
    if value is None:
        return None
    try:
        return datetime.fromisoformat(str(value)).replace(tzinfo=None)
    except ValueError:
        raise row.error(
            f"TIMESTAMP should be a date and time as in 2023-11-16 18:15:46, found {str(value)[:60]!r}"
        ) from None


FORMAT = RequestFormat(
    name="azure",
    summary="lengths and dates; Azure's LLM inference traces",
    fields=("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    contents="lengths",
    read=read,
)
