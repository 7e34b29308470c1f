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
from kvsim.scenario.regular_files import check_regular

MAX_LINE_BYTES = 64 * 2**20
"""A longer line is no request."""

MAX_BLANK_LINES = 1_000_000
"""No trace has as many in a row."""

MAX_UNPACKED_FRAC = 400
"""Bytes of a compressed file over those that it takes: no trace repeats itself more than that."""

_FREE_UNPACKED_BYTES = 64 * 2**20
"""What any compressed file may hold, however small it is."""


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers from 1, blank ones left out; ``.gz`` is unpacked on the way.

    Raises
    ------
    TraceError
        If the file is missing, truncated, not what its name says, or not UTF-8; with the line where one is to blame.
    """
    number = 0
    try:
        check_regular(path)
        is_packed = path.suffix == ".gz"
        with gzip.open(path, "rb") if is_packed else path.open("rb") as file:
            most_bytes = _most_bytes(path) if is_packed else None
            for number, line in numbered(file, path, most_bytes=most_bytes):
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
        check_regular(path)
        most_bytes, num_bytes = _most_bytes(path), 0
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                num_bytes += member.size
                if num_bytes > most_bytes:
                    raise _unpacks_to_too_much(path)
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


def numbered(
    file: IO[bytes] | gzip.GzipFile, source: Path | str, *, most_bytes: int | None = None
) -> Iterator[tuple[int, str]]:
    """Yield the lines of an open file with their numbers from 1, blank ones left out.

    Parameters
    ----------
    most_bytes
        What the file may hold, where it was compressed.

    Raises
    ------
    TraceError
        If a line is too long or not UTF-8, or the file holds too much, or too many blank lines in a row.
    """
    number = num_bytes = num_blank = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        num_bytes += len(line)
        if len(line) > MAX_LINE_BYTES:
            raise TraceError(source, f"a line of more than {MAX_LINE_BYTES // 2**20} MiB", line=number)
        if most_bytes is not None and num_bytes > most_bytes:
            raise _unpacks_to_too_much(source)
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise TraceError(source, "not UTF-8 text", line=number) from None
        if text:
            num_blank = 0
            yield number, text
            continue
        num_blank += 1
        if num_blank > MAX_BLANK_LINES:
            raise TraceError(source, f"more than {MAX_BLANK_LINES:,} blank lines in a row", line=number)


def _most_bytes(path: Path) -> int:
    return max(_FREE_UNPACKED_BYTES, MAX_UNPACKED_FRAC * path.stat().st_size)


def _unpacks_to_too_much(source: Path | str) -> TraceError:
    return TraceError(source, f"unpacks to more than {MAX_UNPACKED_FRAC} times its size, which no trace does")


def object_of(text: str, source: Path | str, line: int) -> dict[str, Any]:
    """Return the JSON object of one line.

    Raises
    ------
    TraceError
        If it is none.
    """
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise TraceError(source, f"not valid JSON: {problem}", line=line) from None
    if not isinstance(parsed, dict):
        raise TraceError(source, f"should be a JSON object, found {type(parsed).__name__}", line=line)
    return parsed
