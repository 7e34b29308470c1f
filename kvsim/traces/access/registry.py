"""The formats of access-trace files, and how one is chosen: by the first bytes of the file.

A new format is a file that defines how to open it and a line in `ACCESS_FORMATS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvsim.traces.access.base import RecordedAccesses
from kvsim.traces.access.file import open_trace
from kvsim.traces.access.header import MAGIC


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessFormat:
    """One format of access-trace files."""

    matches: Callable[[bytes], bool]
    """Whether a file that begins with these `HEAD_BYTES` (fewer, where it is shorter) is of this format."""
    open: Callable[[Path], RecordedAccesses]
    """Raises a `kvsim.errors.TraceError` if the file is damaged."""


HEAD_BYTES = 512

KVTRACE = "kvtrace"
ACCESS_FORMATS: dict[str, AccessFormat] = {
    KVTRACE: AccessFormat(matches=lambda head: head.startswith(MAGIC), open=open_trace),
}
"""By name. The first whose `matches` is true opens a file; `KVTRACE` reports what is wrong with any other."""


def is_access_trace(path: Path) -> bool:
    """Return whether a file is of a known format of access traces."""
    return any(known.matches(_head_of(path)) for known in ACCESS_FORMATS.values())


def open_accesses(path: Path) -> RecordedAccesses:
    """Return the access trace in a file, whatever its format.

    Raises
    ------
    TraceError
        If it cannot be read, is damaged, or is no access trace.
    """
    head = _head_of(path)
    fitting = (known for known in ACCESS_FORMATS.values() if known.matches(head))
    return next(fitting, ACCESS_FORMATS[KVTRACE]).open(path)


def _head_of(path: Path) -> bytes:
    """Return the first bytes of a file, none of one that cannot be read: whoever opens it reports why."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""
