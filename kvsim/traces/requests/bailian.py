"""Qwen-Bailian's request traces: ids of 16-token blocks, the last one partial, chats of several turns, times in s.

After J. Wang et al., "KVCache Cache in the Wild: Characterizing and Optimizing KVCache Cache at a Large Cloud
Provider", USENIX ATC 2025.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvsim.traces.requests.base import Request
from kvsim.traces.requests.block_ids import block_ids_of, fits
from kvsim.traces.requests.format import ReadOptions, RequestFormat
from kvsim.traces.rows import Row


def read(rows: Iterable[Row], options: ReadOptions) -> Iterator[Request]:
    """Yield the request of each row; a session is named by the id of its first chat.

    Raises
    ------
    TraceError
        If a row is damaged, or has another number of ids than its length has blocks.
    """
    first_chats: dict[object, str] = {}
    for row in rows:
        input_tokens, ids = block_ids_of(row, options.block_tokens, counts_partial=True, at_least=1)
        chat = row.session("chat_id")
        session = first_chats.get(row.session("parent_chat_id"), chat)
        if chat is not None and session is not None:
            first_chats[chat] = session
        yield Request(
            arrival_s=row.seconds("timestamp", options.unit_s),
            session=session,
            input_tokens=input_tokens,
            output_tokens=row.count("output_length", at_least=0),
            blocks=ids,
            place=row.place,
        )


FORMAT = RequestFormat(
    name="bailian",
    summary="ids of all blocks, a partial last one too, and chats; Qwen-Bailian",
    fields=("chat_id", "parent_chat_id", "input_length", "output_length", "hash_ids"),
    contents="blocks",
    read=read,
    time_unit="s",
    fits=fits(counts_partial=True),
)
