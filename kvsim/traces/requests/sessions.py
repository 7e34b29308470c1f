"""Reads agent sessions as LMCache published them: whole prompts as text, one JSONL file a session, in one archive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kvsim.errors import TraceError
from kvsim.traces.lines import MAX_TIME, count_of, lines_of_members, object_of
from kvsim.traces.requests.base import Request


def read_sessions(path: Path, *, part: str | None = None) -> Iterator[Request]:
    """Yield the requests of an archive of sessions, session by session, with their prompts; times are absolute.

    A row is ``{"timestamp": microseconds, "input": text, "output": text, "session_id": text}``. Requests of one
    session are not always in the order of their times, and sessions overlap: sort by `arrival_s` to replay them.
    A prompt may be empty.

    Parameters
    ----------
    part
        Folder of the archive to read, as in ``miniswe``; all where absent.

    Raises
    ------
    TraceError
        Naming file and line, if the archive or a row is damaged.
    """
    found = False
    for source, line, text in lines_of_members(path, part):
        row = object_of(text, source, line)
        for key in ("input", "output"):
            if not isinstance(row.get(key), str):
                raise TraceError(source, f"{key} should be text, found {repr(row.get(key))[:60]}", line=line)
        found = True
        yield Request(
            arrival_s=count_of(row, "timestamp", source, line, at_least=0, below=MAX_TIME) * 1e-6,
            input_tokens=len(row["input"].encode()),
            output_tokens=len(row["output"].encode()),
            prompt=row["input"],
            place=f"{source}:{line}",
        )
    if not found:
        where = f"in the folder {part!r}" if part else "in it"
        raise TraceError(path, f"no sessions {where}; a session is a .jsonl file of the archive")
