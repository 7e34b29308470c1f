"""Results as data frames: a row a cell, and a row for each thing that a run counted; units stand in the names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd
from numpy.typing import NDArray

from kvsim.report.results import records_parquet, rows_parquet
from kvsim.report.tables import records_csv

Frame: TypeAlias = pd.DataFrame


def cells_frame(summary: Mapping[str, Any], first: Sequence[str] | None = None) -> Frame:
    """Return a row for each cell of a summary, what varies first; a figure that does not apply is None or NaN.

    Parameters
    ----------
    first
        The columns that come first, in place of what is swept; those that no cell has are left out.

    Examples
    --------
    >>> cells_frame({"cells": [{"hits": 3, "cache.policy": "lru"}], "swept": ["cache.policy"]}).columns.tolist()
    ['cache.policy', 'hits']
    """
    frame = records_frame(summary["cells"])
    leading = [name for name in dict.fromkeys(summary.get("swept", ()) if first is None else first) if name in frame]
    return frame[[*leading, *sorted(str(name) for name in frame if name not in leading)]]


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
        files[f"{name}.csv"] = records_csv(records)
        files[f"{name}.parquet"] = records_parquet(records)
    if rows:
        files |= {"rows.csv": str(rows_frame(rows).to_csv(index=False)).encode(), "rows.parquet": rows_parquet(rows)}
    return files


def html_table(frame: Frame) -> str:
    """Return a frame as an HTML table."""
    return str(frame.to_html(na_rep="-", index=False, float_format=lambda value: f"{value:.4g}"))
