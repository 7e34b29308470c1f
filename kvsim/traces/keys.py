"""Traces of bare keys, as any cache can be studied with: an array, a key a line, or a CSV with a column of keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kvsim.errors import TraceError
from kvsim.traces.lines import lines_of
from kvsim.traces.rows import Row, rows_of
from kvsim.types import IntArray

KEY_COLUMNS = ("key", "obj_id", "object_id", "lbn")
"""Columns that are taken for keys, in this order: libCacheSim's examples call theirs ``obj_id`` or ``lbn``."""


def read_array(path: Path) -> IntArray:
    """Return the keys of a numpy file.

    Raises
    ------
    TraceError
        If it holds no flat array of integers.
    """
    try:
        keys = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise TraceError(path, f"not an array that numpy reads: {problem}") from None
    if not isinstance(keys, np.ndarray) or keys.ndim != 1 or keys.dtype.kind not in "iu" or not keys.size:
        raise TraceError(path, f"should hold a flat array of integer keys, found {_shape_text(keys)}")
    return keys.astype(np.int64)


def read_lines(path: Path) -> IntArray:
    """Return a number for the text of each line, equal ones for equal texts.

    Raises
    ------
    TraceError
        If the file cannot be read, or has no line.
    """
    return _numbered(path, [text for _, text in lines_of(path)])


def read_column(path: Path, column: str) -> IntArray:
    """Return a number for the value of each row in a column of CSV or JSON lines, equal ones for equal values.

    Raises
    ------
    TraceError
        If the file cannot be read, or a row has no such value.
    """
    return _numbered(path, [_value_of(row, column) for row in rows_of(path)])


def key_column_of(row: Row) -> str | None:
    """Return the column of a row that holds keys by its name, None where no name is one of `KEY_COLUMNS`."""
    return next((name for name in KEY_COLUMNS if name in row.values), None)


def _value_of(row: Row, column: str) -> Any:
    value = row.values.get(column)
    if not isinstance(value, int | str):
        raise row.error(f"{column} should be a key, found {value!r}; the row has {', '.join(row.values)}")
    return value


def _numbered(path: Path, keys: list[Any]) -> IntArray:
    if not keys:
        raise TraceError(path, "no keys in it")
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _shape_text(content: Any) -> str:
    return f"{content.dtype} of shape {content.shape}" if isinstance(content, np.ndarray) else "several arrays"
