"""Results as data frames: a row a cell, and a row for each thing that a run counted; units stand in the names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd
from numpy.typing import NDArray

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


def html_table(frame: Frame) -> str:
    """Return a frame as an HTML table."""
    return str(frame.to_html(na_rep="-", index=False, float_format=lambda value: f"{value:.4g}"))
