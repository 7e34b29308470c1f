"""BurstGPT's request traces: lengths, arrival in seconds, and in later versions sessions.

After Y. Wang et al., "BurstGPT: A Real-World Workload Dataset to Optimize LLM Serving Systems", KDD 2025. A request
that failed has an output of 0 tokens.
"""

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
        If a row is damaged.
    """
    for row in rows:
        yield Request(
            arrival_s=row.seconds("Timestamp", options.unit_s),
            session=row.session("Session ID"),
            input_tokens=row.count("Request tokens", at_least=0),
            output_tokens=row.count("Response tokens", at_least=0),
            place=row.place,
        )


FORMAT = RequestFormat(
    name="burstgpt",
    summary="lengths and times; BurstGPT",
    fields=("Request tokens", "Response tokens"),
    contents="lengths",
    read=read,
    time_unit="s",
)
