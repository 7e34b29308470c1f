"""Results as data frames: a row a cell, and a row for each thing that a run counted; units stand in the names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd
from numpy.typing import NDArray

from kvsim.report.results import records_parquet, rows_parquet

Frame: TypeAlias = pd.DataFrame


def cells_frame(summary: Mapping[str, Any]) -> Frame:
    """Return a row for each cell of a summary, what varies first; a figure that does not apply is None or NaN.

    Examples
    --------
    >>> cells_frame({"cells": [{"hits": 3, "cache.policy": "lru"}], "swept": ["cache.policy"]}).columns.tolist()
    ['cache.policy', 'hits']
    """
    frame = records_frame(summary["cells"])
    first = [name for name in summary.get("swept", ()) if name in frame]
    return frame[[*first, *sorted(str(name) for name in frame if name not in first)]]


def records_frame(records: Sequence[Mapping[str, Any]]) -> Frame:
    """Return a row for each record; a list in a record stays one value."""
    names = dict.fromkeys(name for record in records for name in record)
    return pd.DataFrame({name: pd.Series([record.get(name) for record in records]) for name in names})


def rows_frame(rows: Mapping[str, NDArray[Any]]) -> Frame:
    """Return the rows of a run, each with the number of its cell: steps of decode, requests or calls elsewhere."""
    return pd.DataFrame(dict(rows))


def table_files(
    tables: Mapping[str, Sequence[Mapping[str, Any]]], rows: Mapping[str, NDArray[Any]]
) -> dict[str, bytes]:
    """Return tables by name as CSV and as Parquet, and the rows of a run as ``rows``; units stand in the names."""
    files = {}
    for name, records in tables.items():
        files[f"{name}.csv"] = _csv(records_frame(records))
        files[f"{name}.parquet"] = records_parquet(records)
    if rows:
        files |= {"rows.csv": _csv(rows_frame(rows)), "rows.parquet": rows_parquet(rows)}
    return files


def _csv(frame: Frame) -> bytes:
    return str(frame.to_csv(index=False)).encode()


def html_table(frame: Frame) -> str:
    """Return a frame as an HTML table."""
    return str(frame.to_html(na_rep="-", index=False, float_format=lambda value: f"{value:.4g}"))
