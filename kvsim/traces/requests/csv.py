"""Reads request traces that tell lengths only: Azure's CSV with times, and the lengths of arXiv summaries without."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from kvsim.errors import TraceError
from kvsim.traces.lines import MAX_TOKENS, lines_of
from kvsim.traces.requests.base import Request

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
LENGTH_COLUMNS = ("num_prefill_tokens", "num_decode_tokens", "num_total_tokens")


def read_azure(path: Path) -> Iterator[Request]:
    """Yield the requests of an Azure LLM inference trace, ``.gz`` or not: times and lengths, nothing of contents.

    After P. Patel et al., "Splitwise: Efficient Generative LLM Inference Using Phase Splitting", ISCA 2024.

    Raises
    ------
    TraceError
        Naming file and line, if the columns are others or a row is damaged.
    """
    started: datetime | None = None
    for line, row in _rows(path, AZURE_COLUMNS):
        moment = _moment(row["TIMESTAMP"], path, line)
        started = started or moment
        yield Request(
            arrival_s=(moment - started).total_seconds(),
            input_tokens=_count(row, "ContextTokens", path, line, at_least=1),
            output_tokens=_count(row, "GeneratedTokens", path, line, at_least=0),
            place=f"{path}:{line}",
        )


def read_lengths(path: Path) -> Iterator[Request]:
    """Yield the requests of a CSV of lengths, as Vidur ships it for arXiv summaries: no times, no contents.

    Raises
    ------
    TraceError
        Naming file and line, if the columns are others, a row is damaged, or its total is not the sum of its parts.
    """
    for line, row in _rows(path, LENGTH_COLUMNS):
        prefill, decode, total = (
            _count(row, name, path, line, at_least=least) for name, least in zip(LENGTH_COLUMNS, (1, 0, 1), strict=True)
        )
        if prefill + decode != total:
            raise TraceError(
                path, f"num_total_tokens is {total}, its parts {prefill} and {decode} add up to others", line=line
            )
        yield Request(arrival_s=None, input_tokens=prefill, output_tokens=decode, place=f"{path}:{line}")


def _rows(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    names: list[str] | None = None
    for line, text in lines_of(path):
        values = next(csv.reader([text]))
        if names is None:
            names = values
            missing = [name for name in wanted if name not in names]
            if missing:
                raise TraceError(
                    path, f"no column {', '.join(missing)}; the first line should name {','.join(wanted)}", line=line
                )
            continue
        if len(values) != len(names):
            raise TraceError(path, f"{len(values)} values for {len(names)} columns", line=line)
        yield line, dict(zip(names, values, strict=True))


def _count(row: dict[str, str], name: str, path: Path, line: int, *, at_least: int) -> int:
    text = row[name].strip()
    if not (text.isascii() and text.isdigit()) or not at_least <= int(text[:20]) < MAX_TOKENS:
        raise TraceError(path, f"{name} should be a whole number from {at_least} on, found {text[:60]!r}", line=line)
    return int(text)


def _moment(text: str, path: Path, line: int) -> datetime:
    try:
        return datetime.fromisoformat(text.strip()).replace(tzinfo=None)
    except ValueError:
        raise TraceError(path, f"TIMESTAMP should be a date and time, found {text[:60]!r}", line=line) from None
