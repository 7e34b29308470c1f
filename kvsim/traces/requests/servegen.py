"""ServeGen's requests for offline replay: ids of 16-token blocks, the last one partial; no times, no output lengths.

After Y. Xiang et al., "ServeGen: Workload Characterization and Generation of Large Language Model Serving in
Production", 2025.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvsim.traces.requests.base import Request
from kvsim.traces.requests.block_ids import block_ids_of, fits
from kvsim.traces.requests.format import ReadOptions, RequestFormat
from kvsim.traces.rows import Row


def read(rows: Iterable[Row], options: ReadOptions) -> Iterator[Request]:
    """Yield the request of each row, in the file's order.

    Raises
    ------
    TraceError
        If a row is damaged, or has another number of ids than its length has blocks.
    """
    for row in rows:
        input_tokens, ids = block_ids_of(row, options.block_tokens, counts_partial=True, at_least=1)
        yield Request(arrival_s=None, input_tokens=input_tokens, output_tokens=None, blocks=ids, place=row.place)


FORMAT = RequestFormat(
    name="servegen",
    summary="ids of all blocks, a partial last one too, without times or output lengths; ServeGen offline",
    fields=("request_id", "type", "input_length", "hash_ids"),
    contents="blocks",
    read=read,
    fits=fits(counts_partial=True),
)
