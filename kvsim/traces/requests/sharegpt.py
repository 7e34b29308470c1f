"""ShareGPT's conversations as text: every turn of the user is a request whose prompt is the conversation so far.

A row is ``{"id": text, "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}, ...]}``.
Prompts are the bare texts, one after another with a line between: no model's chat template is applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvsim.traces.requests.base import Request
from kvsim.traces.requests.format import ReadOptions, RequestFormat
from kvsim.traces.rows import Row

_ANSWERS = ("gpt", "chatgpt", "bard", "bing", "assistant")
"""Who answers; whoever else speaks adds to the prompt."""


def read(rows: Iterable[Row], options: ReadOptions) -> Iterator[Request]:
    """Yield the requests of each conversation.

    Raises
    ------
    TraceError
        If a conversation is no list of turns with a speaker and text.
    """
    del options
    for row in rows:
        turns = row.values.get("conversations")
        if not isinstance(turns, list):
            raise row.error("conversations should be a list of turns")
        spoken: list[str] = []
        for turn in turns:
            speaker, text = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
            if not isinstance(speaker, str) or not isinstance(text, str):
                raise row.error('a turn should be {"from": text, "value": text}')
            if speaker in _ANSWERS and spoken:
                prompt = "\n".join(spoken)
                yield Request(
                    arrival_s=None,
                    session=row.session("id"),
                    input_tokens=len(prompt.encode()),
                    output_tokens=len(text.encode()),
                    text=prompt,
                    output_text=text,
                    place=row.place,
                )
            spoken.append(text)


FORMAT = RequestFormat(
    name="sharegpt",
    summary="text, without times: conversations; ShareGPT",
    fields=("conversations",),
    contents="text",
    read=read,
)
