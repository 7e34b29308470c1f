"""Agent sessions as LMCache published them: prompts as text; an archive of one JSONL file a session, or one alone.

A row is ``{"timestamp": microseconds since 1970, "input": text, "output": text, "session_id": text}``. Rows of one
session are not always in the order of their times, and sessions overlap. A prompt may be empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from kvsim.traces.requests.base import Request
from kvsim.traces.requests.format import ReadOptions, RequestFormat
from kvsim.traces.rows import Row


def read(rows: Iterable[Row], options: ReadOptions) -> Iterator[Request]:
    """Yield the requests by arrival, counted from the first one; all rows are read before.

    Raises
    ------
    TraceError
        If a row is damaged.
    """
    requests = sorted((_request_of(row, options) for row in rows), key=lambda request: request.arrival_s or 0.0)
    start_s = (requests[0].arrival_s or 0.0) if requests else 0.0
    for request in requests:
        yield request if request.arrival_s is None else replace(request, arrival_s=request.arrival_s - start_s)


def _request_of(row: Row, options: ReadOptions) -> Request:
    prompt, output = row.text("input"), row.text("output")
    return Request(
        arrival_s=row.seconds("timestamp", options.unit_s),
        session=row.session("session_id"),
        input_tokens=len(prompt.encode()),
        output_tokens=len(output.encode()),
        text=prompt,
        output_text=output,
        place=row.place,
    )


FORMAT = RequestFormat(
    name="sessions",
    summary="text: agent sessions, an archive of them or one alone; LMCache",
    fields=("input", "output"),
    contents="text",
    read=read,
    time_unit="us",
)
