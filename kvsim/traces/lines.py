"""Reads lines of request traces, compressed or not, and turns whatever is wrong with a file into one line of error."""

from __future__ import annotations

import gzip
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kvsim.errors import TraceError

MAX_LINE_BYTES = 64 * 2**20
"""A longer line is no request."""


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers from 1, blank ones left out; ``.gz`` is unpacked on the way.

    Raises
    ------
    TraceError
        If the file is missing, truncated, not what its name says, or not UTF-8; with the line where one is to blame.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in numbered(file, path):
                yield number, line
    except TraceError:
        raise
    except EOFError:
        raise TraceError(path, "the compressed file ends in the middle of a line", line=number + 1) from None
    except (OSError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise TraceError(path, reason, line=number + 1 if number else None) from None


def lines_of_members(path: Path, part: str | None) -> Iterator[tuple[str, int, str]]:
    """Yield the lines of the ``.jsonl`` files of a tar archive, each with its file and number.

    Parameters
    ----------
    part
        Folder to keep to, where one is given.

    Raises
    ------
    TraceError
        If there is no such file, or it is no archive, or a truncated one.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if not member.isfile() or not member.name.endswith(".jsonl"):
                    continue
                name = member.name.removeprefix("./")
                file = archive.extractfile(member)
                if file is not None and (part is None or name.startswith(f"{part}/")):
                    for line, text in numbered(file, f"{path}/{name}"):
                        yield f"{path}/{name}", line, text
    except TraceError:
        raise
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as problem:
        raise TraceError(path, getattr(problem, "strerror", None) or f"not a whole archive: {problem}") from None


def numbered(file: IO[bytes] | gzip.GzipFile, source: Path | str) -> Iterator[tuple[int, str]]:
    """Yield the lines of an open file with their numbers from 1, blank ones left out."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise TraceError(source, f"a line of more than {MAX_LINE_BYTES // 2**20} MiB", line=number)
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise TraceError(source, "not UTF-8 text", line=number) from None
        if text:
            yield number, text


def object_of(text: str, source: Path | str, line: int) -> dict[str, Any]:
    """Return the JSON object of one line.

    Raises
    ------
    TraceError
        If it is none.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise TraceError(source, f"not valid JSON: {problem}", line=line) from None
    if not isinstance(found, dict):
        raise TraceError(source, f"should be a JSON object, found {type(found).__name__}", line=line)
    return found
