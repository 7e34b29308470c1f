"""Rows of a trace by name, whatever holds them: lines of JSON, a JSON array, CSV with a header, an archive of lines."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvsim.errors import TraceError
from kvsim.traces.lines import lines_of, lines_of_members, object_of

MAX_COUNT = 2**27
"""A longer request, 134 million tokens, is none: it is ten times the longest context that any model has had."""

MAX_TIME = 2.0**62
"""A larger time, in the trace's own unit, is none."""

_MAX_DIGITS = 20


@dataclass(frozen=True, slots=True)
class Row:
    """The values of one row by name, and where it stands. A missing value is None."""

    values: dict[str, Any]
    source: str
    line: int | None

    @property
    def place(self) -> str:
        """File and line."""
        return self.source if self.line is None else f"{self.source}:{self.line}"

    def error(self, problem: str) -> TraceError:
        """Return an error about this row."""
        return TraceError(self.source, problem, line=self.line)

    def count(self, name: str, *, at_least: int) -> int:
        """Return a whole number.

        Raises
        ------
        TraceError
            If it is missing, no whole number, or out of bounds.
        """
        value = self.values.get(name)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is int and at_least <= value <= MAX_COUNT:
            return value
        raise self.error(f"{name} should be a whole number from {at_least} to {MAX_COUNT:,}, found {self._shown(name)}")

    def seconds(self, name: str, unit_s: float) -> float | None:
        """Return a time in seconds, None where the row has none.

        Parameters
        ----------
        unit_s
            Seconds of one unit of the trace's times.

        Raises
        ------
        TraceError
            If it is no number from 0 on.
        """
        value = self.values.get(name)
        if value is None:
            return None
        if type(value) not in (int, float) or not 0 <= value < MAX_TIME:
            raise self.error(f"{name} should be a number from 0 on, or left out; found {self._shown(name)}")
        return float(value * unit_s)

    def text(self, name: str) -> str:
        """Return text.

        Raises
        ------
        TraceError
            If it is none.
        """
        value = self.values.get(name)
        if not isinstance(value, str):
            raise self.error(f"{name} should be text, found {self._shown(name)}")
        return value

    def session(self, name: str) -> str | None:
        """Return the id of a session, None where the row has none."""
        value = self.values.get(name)
        return None if value is None else str(value)

    def whole_numbers(self, name: str, *, below: int) -> list[int]:
        """Return a list of whole numbers from 0 to below `below`.

        Raises
        ------
        TraceError
            If it is none.
        """
        values = self.values.get(name)
        is_list = isinstance(values, list) and set(map(type, values)) <= {int}
        if not isinstance(values, list) or not is_list or (values and (min(values) < 0 or max(values) >= below)):
            raise self.error(f"{name} should be a list of whole numbers from 0 on")
        return values

    def _shown(self, name: str) -> str:
        return "nothing" if self.values.get(name) is None else repr(self.values[name])[:60]


def rows_of(path: Path, part: str | None = None) -> Iterator[Row]:
    """Yield the rows of a file, lazily but for a JSON array; ``.gz`` is unpacked on the way.

    Parameters
    ----------
    part
        Folder of an archive, where only that is to be read.

    Raises
    ------
    TraceError
        If the file cannot be read, or a row is damaged; with the line where one is to blame.
    """
    if ".tar" in path.suffixes or path.suffix == ".tgz":
        for source, line, text in lines_of_members(path, part):
            yield Row(object_of(text, source, line), source, line)
        return
    if part is not None:
        raise TraceError(path, f"is no archive, so it has no part {part!r}; leave part out")
    lines, source = lines_of(path), str(path)
    for first, marked in lines:
        text = marked.removeprefix("\ufeff")
        if text.startswith("["):
            yield from _array_rows(path, [text, *(following for _, following in lines)])
        elif text.startswith("{"):
            yield Row(object_of(text, source, first), source, first)
            for line, following in lines:
                yield Row(object_of(following, source, line), source, line)
        else:
            yield from _csv_rows(source, _columns_of(text, source, first), lines)


def _array_rows(path: Path, lines: list[str]) -> Iterator[Row]:
    try:
        elements = json.loads("\n".join(lines))
    except (ValueError, RecursionError) as problem:
        raise TraceError(path, f"not valid JSON: {problem}") from None
    for place, element in enumerate(elements):
        if not isinstance(element, dict):
            raise TraceError(f"{path}[{place}]", f"should be a JSON object, found {type(element).__name__}")
        yield Row(element, f"{path}[{place}]", None)


def _columns_of(text: str, source: str, line: int) -> list[str]:
    columns = [name.strip() for name in _cells_of(text, source, line)]
    if len(set(columns)) < len(columns):
        raise TraceError(source, "the first line should name the columns, each once", line=line)
    return columns


def _csv_rows(source: str, columns: list[str], lines: Iterator[tuple[int, str]]) -> Iterator[Row]:
    for line, text in lines:
        values = _cells_of(text, source, line)
        if len(values) != len(columns):
            raise TraceError(source, f"{len(values)} values for {len(columns)} columns", line=line)
        yield Row({name: _value_of(value.strip()) for name, value in zip(columns, values, strict=True)}, source, line)


def _cells_of(text: str, source: str, line: int) -> list[str]:
    try:
        return next(csv.reader([text]))
    except csv.Error as problem:
        raise TraceError(source, f"not valid CSV: {problem}", line=line) from None


def _value_of(text: str) -> int | float | str | None:
    """Return the number that the text of a CSV's cell is, else the text; None where it is empty."""
    if text.isascii() and text.removeprefix("-").isdigit() and len(text) <= _MAX_DIGITS:
        return int(text)
    try:
        number = float(text)
    except ValueError:
        return text or None
    return number if math.isfinite(number) else text
