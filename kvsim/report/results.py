"""Result folders, written whole or not at all, and read back with suspicion: the one place that knows Parquet."""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kvsim.errors import ResultError
from kvsim.profile.provenance import SCHEMA_VERSION
from kvsim.report.ranges import RangeError, check_ranges
from kvsim.scenario.digest import file_digest
from kvsim.scenario.regular_files import check_regular, read_text
from kvsim.scenario.whole_files import temporary_name, write_whole
from kvsim.types import Rows

SUMMARY_SCHEMA_VERSION = 1
"""Of the table and the verdict in ``summary.json``."""

MANIFEST, SUMMARY, ROWS = "manifest.json", "summary.json", "rows.parquet"
_TABLE = ".parquet"

_DECODE_COLUMNS = ("cell", "policy", "step", "context_tokens", "step_s", "is_warmup")
"""Columns that the rows of a decode scenario must have; those of other kinds (`summary["kind"]`) name their cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What one run found: a summary that equal scenarios make equal, its rows, and where and how it was made.

    Raises
    ------
    RangeError
        If a figure has a value that its unit rules out (`check_ranges`).
    """

    summary: dict[str, Any]
    rows: dict[str, NDArray[Any]]
    """Columns of the per-step table, all of one length; none where a sweep kept the cells alone."""
    manifest: dict[str, Any]
    tables: dict[str, dict[str, NDArray[Any]]] = field(default_factory=dict)
    """Further tables by name, each kept as a Parquet file of that name."""

    def __post_init__(self) -> None:
        check_ranges(self.summary, self.rows)


def write_result(result: RunResult, folder: Path, figures: Mapping[str, bytes] | None = None) -> Path:
    """Write ``folder/<scenario>/<run id>/`` and return it; a run id that exists already gets a number behind it.

    Parameters
    ----------
    figures
        Files to put beside, by name, as in ``{"latency.png": ...}``.

    Raises
    ------
    ResultError
        If it cannot be written (a full disk, no permission); nothing of it is then left.
    """
    target = folder / str(result.summary["scenario"]) / str(result.manifest["run_id"])
    partial = temporary_name(target)
    try:
        partial.mkdir(parents=True)
        _write_files(result, partial, figures or {})
        return _rename(partial, target)
    except OSError as problem:
        _remove(partial)
        reason = problem.strerror or str(problem)
        raise ResultError(f"{target}: cannot write the result: {reason}") from None
    except BaseException:
        _remove(partial)
        raise


def load_result(path: Path) -> RunResult:
    """Return the result in the folder `path`.

    Raises
    ------
    ResultError
        If it is missing, truncated, changed since it was written, or of another schema version.
    """
    if not path.is_dir():
        raise ResultError(f"{path}: no such result folder")
    if not (path / MANIFEST).is_file():
        raise ResultError(f"{path}: no {MANIFEST}, so no result{_nearest_run(path)}")
    manifest = _read_json(path / MANIFEST)
    if manifest.get("schema_version") != SCHEMA_VERSION:
        version = manifest.get("schema_version")
        raise ResultError(f"{path}: schema_version {version!r}, this kvsim reads {SCHEMA_VERSION}; run it again")
    _check_digests(path, manifest)
    summary = _read_json(path / SUMMARY)
    cells = summary.get("cells")
    is_decode = summary.get("kind") is None
    if not isinstance(cells, list) or not all(
        isinstance(cell, dict) and (not is_decode or "policy" in cell) for cell in cells
    ):
        raise ResultError(f"{path / SUMMARY}: damaged: no list of cells{', each with its policy' if is_decode else ''}")
    has_rows = ROWS in manifest["files"]
    rows = _read_rows(path / ROWS, _DECODE_COLUMNS if is_decode else ("cell",)) if has_rows else {}
    tables = {name: _read_rows(path / f"{name}{_TABLE}", ("cell",)) for name in manifest.get("tables", ())}
    try:
        return RunResult(summary=summary, rows=rows, manifest=manifest, tables=tables)
    except RangeError as problem:
        raise ResultError(f"{path}: damaged: {problem.figure}; run it again") from None


def joined(tables: Sequence[Rows]) -> dict[str, NDArray[Any]]:
    """Return tables of equal columns as one, one after the other."""
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def write_picture(content: bytes, folder: Path, name: str) -> Path:
    """Write one picture or file that belongs to no run, whole or not at all, and return it.

    Raises
    ------
    ResultError
        If it cannot be written.
    """
    path = folder / name
    try:
        write_whole(path, content)
    except OSError as problem:
        raise ResultError(f"{path}: cannot be written: {problem.strerror}") from None
    return path


def records_parquet(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Return a Parquet file with a row for each record and a column for each name; null where a record lacks it.

    Examples
    --------
    >>> records_parquet([{"cell": 0, "error_frac": None}, {"cell": 1, "error_frac": 0.5}])[:4]
    b'PAR1'
    """
    names = dict.fromkeys(name for record in records for name in record)
    return _parquet({name: pa.array([_plain(record.get(name)) for record in records]) for name in names})


def rows_parquet(rows: Rows) -> bytes:
    """Return a Parquet file of columns of equal length."""
    return _parquet({name: _arrow(column) for name, column in rows.items()})


def _parquet(columns: Mapping[str, pa.Array]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(dict(columns)), sink)
    return bytes(sink.getvalue().to_pybytes())


def _arrow(column: NDArray[Any]) -> pa.Array:
    """Return what ``pa.array`` does, which loads pandas even where it has nothing to do."""
    column = np.ascontiguousarray(column)
    if column.dtype.kind in "iuf":
        return pa.Array.from_buffers(pa.from_numpy_dtype(column.dtype), column.size, [None, pa.py_buffer(column)])
    if column.dtype.kind == "b":
        bits = np.packbits(column, bitorder="little")
        return pa.Array.from_buffers(pa.bool_(), column.size, [None, pa.py_buffer(bits)])
    if column.dtype.kind == "U" or (column.dtype == object and all(type(value) is str for value in column)):
        texts = [text.encode() for text in column.tolist()]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
        return pa.Array.from_buffers(pa.string(), column.size, buffers)
    return pa.array(column)


def summary_json(summary: Mapping[str, Any]) -> str:
    """Return the text of ``summary.json``: names sorted, equal floats equal text, what is not a number null.

    Examples
    --------
    >>> print(summary_json({"b": float("nan"), "a": np.float64(0.1)}), end="")
    {
     "a": 0.1,
     "b": null
    }
    """
    return json.dumps(_plain(summary), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _write_files(result: RunResult, folder: Path, figures: Mapping[str, bytes]) -> None:
    (folder / SUMMARY).write_text(summary_json(result.summary), encoding="utf-8")
    tables = {f"{name}{_TABLE}": columns for name, columns in result.tables.items()}
    tables |= {ROWS: result.rows} if result.rows else {}
    for name, columns in tables.items():
        (folder / name).write_bytes(rows_parquet(columns))
    for name, content in figures.items():
        (folder / name).write_bytes(content)
    digests = {name: file_digest(folder / name) for name in (SUMMARY, *tables, *figures)}
    manifest = result.manifest | {"files": digests} | ({"tables": sorted(result.tables)} if result.tables else {})
    (folder / MANIFEST).write_text(summary_json(manifest), encoding="utf-8")


def _rename(partial: Path, target: Path) -> Path:
    for number in range(1, 1000):
        free = target if number == 1 else target.with_name(f"{target.name}-{number}")
        try:
            return partial.rename(free)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise FileExistsError(errno.EEXIST, "1000 results of that name exist")


def _remove(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    with suppress(OSError):  # only where nothing else is in it
        partial.parent.rmdir()


def _check_digests(path: Path, manifest: dict[str, Any]) -> None:
    written = manifest.get("files")
    if not isinstance(written, dict):
        raise ResultError(f"{path / MANIFEST}: damaged: no list of files; run it again")
    tables = [f"{name}{_TABLE}" for name in manifest.get("tables", ())]
    for name in (SUMMARY, *tables, *([ROWS] if ROWS in written else [])):
        expected = written.get(name)
        try:
            check_regular(path / name)
            digest = file_digest(path / name)
        except OSError as problem:
            raise ResultError(f"{path / name}: {problem.strerror}; the result is incomplete, run it again") from None
        if digest != expected:
            raise ResultError(f"{path / name}: damaged: it is not what was written; run it again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path))
    except OSError as problem:
        raise ResultError(f"{path}: {problem.strerror}") from None
    except (ValueError, RecursionError):
        raise ResultError(f"{path}: damaged: not valid JSON; run it again") from None
    if not isinstance(content, dict):
        raise ResultError(f"{path}: damaged: not a JSON object; run it again")
    return content


def _read_rows(path: Path, required: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    try:
        table = pq.read_table(path)
        rows = {name: table[name].to_numpy() for name in table.column_names}
    except (OSError, ValueError, pa.ArrowException) as problem:
        first = (str(problem).splitlines() or ["not Parquet"])[0]
        raise ResultError(f"{path}: damaged: {first}") from None
    missing = [name for name in required if name not in rows]
    if missing:
        raise ResultError(f"{path}: damaged: no column {', '.join(missing)}")
    return rows


def _nearest_run(path: Path) -> str:
    runs = sorted((inner.parent for inner in path.glob(f"*/{MANIFEST}")), key=lambda run: run.name)
    return f"; did you mean {runs[-1]}?" if runs else ""
