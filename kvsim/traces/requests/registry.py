"""The formats of request traces, and how one is chosen: by its name, or by what the rows of the file look like.

A new format is a file that defines a `RequestFormat` and a line in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from kvsim.errors import ScenarioError, TraceError
from kvsim.scenario.toml import nearest
from kvsim.traces.requests import (
    azure,
    bailian,
    burstgpt,
    full_blocks,
    lengths,
    llmservingsim,
    mooncake,
    servegen,
    sessions,
    sharegpt,
)
from kvsim.traces.requests.base import Request
from kvsim.traces.requests.format import SECONDS, ReadOptions, RequestFormat, TimeUnit
from kvsim.traces.rows import Row, rows_of

FORMATS: dict[str, RequestFormat] = {
    module.FORMAT.name: module.FORMAT
    for module in (
        bailian,
        servegen,
        mooncake,
        full_blocks,
        llmservingsim,
        sessions,
        sharegpt,
        azure,
        burstgpt,
        lengths,
    )
}
"""By name; where rows suit several, the first is meant."""

_SAMPLE_ROWS = 50
_BLOCK_SIZES = (16, 32, 64, 128, 256, 512, 1024)
"""What is tried where rows suit no format's own block size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTrace:
    """A request trace that is open for reading."""

    path: Path
    format: RequestFormat
    block_tokens: int
    reading: str
    """How it is read, for people: format, block size and unit of time."""
    requests: Iterator[Request]


def find_format(name: str) -> RequestFormat:
    """Return the format called `name`.

    Raises
    ------
    ScenarioError
        If there is none.
    """
    if name not in FORMATS:
        raise ScenarioError(f"no format of request traces is called {name!r}{nearest(name, FORMATS)}")
    return FORMATS[name]


def open_requests(
    path: Path,
    name: str | None = None,
    *,
    block_tokens: int | None = None,
    time_unit: TimeUnit | None = None,
    part: str | None = None,
) -> RequestTrace:
    """Return the requests of a file, read lazily.

    Parameters
    ----------
    name
        The format; found from the first rows where absent.
    block_tokens
        Tokens of a block; the format's own where absent.
    time_unit
        Unit of the file's times; the format's own where absent.
    part
        Folder of an archive, where only that is to be read.

    Raises
    ------
    TraceError
        If the file cannot be read, or its rows suit no format.
    ScenarioError
        If there is no such format, or it has no unit of time to choose.
    """
    rows = rows_of(path, part)
    if name is None:
        sample = list(islice(rows, _SAMPLE_ROWS))
        chosen, block_tokens = infer_format(sample, path, block_tokens)
    else:
        chosen = find_format(name)
        sample = list(islice(rows, 1))
        _check_fields(sample, chosen)
    if time_unit is not None and chosen.time_unit is None:
        raise ScenarioError(f"format {chosen.name!r} has no unit of time to choose; leave time_unit out")
    unit = time_unit or chosen.time_unit
    options = ReadOptions(block_tokens=block_tokens or chosen.block_tokens, unit_s=SECONDS[unit] if unit else 1.0)
    return RequestTrace(
        path=path,
        format=chosen,
        block_tokens=options.block_tokens,
        reading=f"{chosen.name}{' (inferred)' if name is None else ''}, blocks of {options.block_tokens} tokens"
        + (f", times in {unit}" if unit else ""),
        requests=chosen.read(chain(sample, rows), options),
    )


def infer_format(
    sample: Sequence[Row], path: Path, block_tokens: int | None = None
) -> tuple[RequestFormat, int | None]:
    """Return the format that rows suit, and their block size where that is not the format's own.

    Raises
    ------
    TraceError
        If there is no row, or rows suit no format.
    """
    if not sample:
        raise TraceError(path, "no requests in it")
    fields = sample[0].values.keys()
    candidates = [known for known in FORMATS.values() if fields >= set(known.fields)]
    if not candidates:
        raise TraceError(path, f"fields {', '.join(fields)} are of no known format; known are {_fields_text()}")
    for size in (block_tokens,) if block_tokens else (None, *_BLOCK_SIZES):
        for known in candidates:
            if known.fits(sample, size or known.block_tokens):
                return known, size
    sizes = f"{block_tokens}" if block_tokens else f"{_BLOCK_SIZES[0]} to {_BLOCK_SIZES[-1]}"
    raise TraceError(
        path,
        f"the first {len(sample)} rows have other numbers of hash_ids than their input_length has blocks of {sizes} "
        "tokens; state block_tokens",
    )


def _check_fields(sample: Sequence[Row], chosen: RequestFormat) -> None:
    """Refuse a first row that has not the format's fields."""
    for row in sample:
        missing = [field for field in chosen.fields if field not in row.values]
        if missing:
            raise row.error(f"no field {', '.join(missing)}; rows of format {chosen.name} have {_fields_of(chosen)}")


def _fields_text() -> str:
    return "; ".join(f"{known.name}: {_fields_of(known)}" for known in FORMATS.values())


def _fields_of(known: RequestFormat) -> str:
    return ", ".join(known.fields)
