"""Tables of a page: every figure is printed as in the terminal and carries its exact value (``data-value``).

The rows of a short table stand in the page as HTML. A long one is packed, and the page's script shows a part of it at a
time: a browser takes long over many thousand rows, and ten thousand of them would be 30 MB.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvsim.report.tables import NOT_APPLICABLE, Column, digits, is_missing, percent, shown_as
from kvsim.units import format_bytes, format_seconds

MAX_ROWS = 400
"""Rows from which on a table is long."""
PAGE_ROWS = 100
"""Rows of a long table that are shown at a time."""
FILTER_FROM = 8
"""Rows from which on a table has a filter."""
_UNITS = ("_bytes_per_s", "_tokens_per_s", "_bytes", "_frac", "_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under columns, which a reader sorts and filters."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Column]
    legend: str = ""
    is_folded: bool = False
    """Shown when the reader opens it."""


def own_columns(rows: Sequence[Mapping[str, Any]], first: Sequence[str] = ()) -> dict[str, Column]:
    """Return a column for every name in `rows`, those of `first` in front, printed by the unit of its name."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    ordered = [*(name for name in first if name in names), *sorted(name for name in names if name not in first)]
    return {name: Column(title=_title(name), text=_printer(name)) for name in ordered}


def table_html(table: Table, anchor: str, max_packed: int = 0) -> tuple[str, int]:
    """Return a table with its tools, and the characters that its packed rows take.

    Parameters
    ----------
    max_packed
        Characters that may be spent on packed rows; where more are needed, the last rows are left out, and a note says
        so.
    """
    columns = {name: column for name, column in table.columns.items() if any(name in row for row in table.rows)}
    is_long = len(table.rows) > MAX_ROWS
    num_packed, packed = fitting(table.rows, columns, max_packed) if is_long else (0, "")
    rows = table.rows[:PAGE_ROWS] if is_long else table.rows
    head = "".join(_head(name, column, table.rows) for name, column in columns.items())
    body = "\n".join(_row(row, columns) for row in rows)
    title = html.escape(table.title)
    data = f"<script type='application/octet-stream' id='{anchor}-all'>{packed}</script>" if packed else ""
    parts = [
        _tools(anchor, is_paged=bool(packed)) if len(rows) >= FILTER_FROM else "",
        f"<div class='scroll' tabindex='0' role='region' aria-label='{title}'>",
        f"<table id='{anchor}'><caption class='hidden'>{title}</caption><thead><tr>{head}</tr></thead>\n",
        f"<tbody>\n{body}\n</tbody></table></div>{data}",
        _left_out(len(table.rows), num_packed) if is_long else "",
        f"<p class='note'>{html.escape(' '.join(table.legend.split()))}</p>" if table.legend else "",
    ]
    return "".join(parts), len(packed)


def fitting(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column], max_packed: int) -> tuple[int, str]:
    """Return how many rows fit into so many characters, and those rows packed."""
    fields = [[_field(row, name, column) for row in rows] for name, column in columns.items()]
    num_rows = len(rows)
    while num_rows > PAGE_ROWS:
        packed = _packed([column[:num_rows] for column in fields])
        if len(packed) <= max_packed:
            return num_rows, packed
        num_rows = int(0.95 * num_rows * max_packed / len(packed))
    return 0, ""


def _packed(fields: Sequence[Sequence[tuple[str, str]]]) -> str:
    """Return columns as base64 of gzip of JSON: of each its texts, and the exact values where those are others."""
    parts = [
        {"texts": [text for text, _ in column], "values": [None if exact == text else exact for text, exact in column]}
        for column in fields
    ]
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode("ascii")


def value_text(value: Any) -> str:
    """Return a value as ``summary.json`` has it, for programs; empty where it does not apply.

    Examples
    --------
    >>> value_text(0.1), value_text("lru"), value_text(None), value_text(True)
    ('0.1', 'lru', '', 'true')
    """
    if isinstance(value, str):
        return value
    if is_missing(value) or (isinstance(value, float) and math.isinf(value)):
        return ""
    return json.dumps(value)


def _head(name: str, column: Column, rows: Sequence[Mapping[str, Any]]) -> str:
    title = html.escape(column.title.replace("-/", "").replace("/", " ").strip())
    kind = "text" if _is_text(name, rows) else "number"
    return f"<th scope='col' class='{kind}' data-name='{html.escape(name)}'><button type='button'>{title}</button></th>"


def _row(row: Mapping[str, Any], columns: Mapping[str, Column]) -> str:
    fields = []
    for name, column in columns.items():
        text, exact = _field(row, name, column)
        kind = " class='text'" if isinstance(row.get(name), str | bool) else ""
        data = "" if exact == text else f" data-value='{html.escape(exact)}'"
        fields.append(f"<td{kind}{data}>{html.escape(text)}</td>")
    return f"<tr>{''.join(fields)}</tr>"


def _field(row: Mapping[str, Any], name: str, column: Column) -> tuple[str, str]:
    """Return a figure as it is shown, and as it is exactly."""
    value = row.get(name)
    return shown_as(column, value), value_text(value)


def _tools(anchor: str, *, is_paged: bool) -> str:
    turns = "".join(
        f"<button type='button' data-turns='{anchor}' data-by='{by}'>{text}</button>"
        for by, text in ((-PAGE_ROWS, "Previous"), (PAGE_ROWS, "Next"))
    )
    return (
        f"<div class='tools'><label>Filter rows <input type='search' data-filters='{anchor}'></label>"
        f"{turns if is_paged else ''}<output for='{anchor}'></output></div>\n"
    )


def _left_out(num_rows: int, num_packed: int) -> str:
    """Return the note of a long table: which of its rows the page has, or shows without its script."""
    if num_packed == num_rows:
        return (
            f"<noscript><p class='note'>The first {PAGE_ROWS} of {num_rows:,} rows: JavaScript is off.</p></noscript>"
        )
    num_shown = max(num_packed, PAGE_ROWS)
    return (
        f"<p class='note'>The first {num_shown:,} of {num_rows:,} rows, so that the page stays small; "
        "<code>kvsim report --csv</code> writes all.</p>"
    )


def _is_text(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return any(isinstance(row.get(name), str | bool) for row in rows)


def _title(name: str) -> str:
    stem = next((name.removesuffix(unit) for unit in _UNITS if name.endswith(unit)), name)
    if name.endswith("_per_s"):
        return f"{stem} per s".replace("_", " ") if not name.endswith("_bytes_per_s") else stem.replace("_", " ")
    return name if "." in name else stem.replace("_", " ")


def _printer(name: str) -> Any:
    by_unit = {"_bytes_per_s": lambda value: f"{value / 1e9:.3g} GB/s", "_bytes": format_bytes, "_frac": percent}
    unit = next((unit for unit in _UNITS if name.endswith(unit)), None)
    text = by_unit.get(unit or "", format_seconds if unit == "_s" and not name.endswith("_per_s") else _plain)
    return lambda value: _any_text(value, text)


def _any_text(value: Any, text: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(_any_text(inner, text) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return NOT_APPLICABLE if is_missing(value) else str(text(value))
    return str(value)


def _plain(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return digits(value) if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
