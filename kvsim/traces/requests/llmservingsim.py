"""LLMServingSim's request traces: ids of the tokens of prompt and output, arrival in nanoseconds.

After J. Cho et al., "LLMServingSim: A HW/SW Co-Simulation Infrastructure for LLM Inference Serving at Scale", 2024.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from kvsim.traces.requests.base import Request
from kvsim.traces.requests.format import ReadOptions, RequestFormat
from kvsim.traces.rows import Row


def read(rows: Iterable[Row], options: ReadOptions) -> Iterator[Request]:
    """Yield the request of each row.

    Raises
    ------
    TraceError
        If a row is damaged, or its length is not that of its tokens.
    """
    for row in rows:
        input_tokens = row.count("input_toks", at_least=1)
        token_ids = row.whole_numbers("input_tok_ids", below=2**32)
        if len(token_ids) != input_tokens:
            raise row.error(f"input_toks is {input_tokens}, input_tok_ids has {len(token_ids)}")
        yield Request(
            arrival_s=row.seconds("arrival_time_ns", options.unit_s),
            input_tokens=input_tokens,
            output_tokens=row.count("output_toks", at_least=0),
            token_ids=np.array(token_ids, dtype=np.int64),
            place=row.place,
        )


FORMAT = RequestFormat(
    name="llmservingsim",
    summary="ids of tokens; LLMServingSim",
    fields=("input_toks", "output_toks", "input_tok_ids"),
    contents="tokens",
    read=read,
    time_unit="ns",
)
