"""Tables of a page: every figure is printed as in the terminal and carries its exact value (``data-value``)."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kvsim.report.tables import NOT_APPLICABLE, Column, digits, is_missing, percent
from kvsim.units import format_bytes, format_seconds

MAX_ROWS = 400
"""Rows that a page shows of a table; its files have all of them."""
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


def table_html(table: Table, anchor: str) -> str:
    """Return a table with its filter, or none of it where it has no rows."""
    shown = {name: column for name, column in table.columns.items() if any(name in row for row in table.rows)}
    rows = table.rows[:MAX_ROWS]
    head = "".join(_head(name, column, rows) for name, column in shown.items())
    body = "\n".join(_row(number, row, shown) for number, row in enumerate(rows))
    title = html.escape(table.title)
    left_out = len(table.rows) - len(rows)
    more = f"<p class='note'>The first {MAX_ROWS} of {len(table.rows):,} rows; <code>--csv</code> writes all.</p>"
    legend = f"<p class='note'>{html.escape(' '.join(table.legend.split()))}</p>" if table.legend else ""
    tools = (
        f"<div class='tools'><label>Filter rows <input type='search' data-filters='{anchor}'></label>"
        f"<output for='{anchor}'></output></div>\n"
    )
    return (
        f"{tools if len(rows) >= FILTER_FROM else ''}"
        f"<div class='scroll' tabindex='0' role='region' aria-label='{title}'>"
        f"<table id='{anchor}'><caption class='hidden'>{title}</caption><thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>{more if left_out else ''}{legend}"
    )


def value_text(value: Any) -> str:
    """Return a value as ``summary.json`` has it, for programs; empty where it does not apply.

    Examples
    --------
    >>> value_text(0.1), value_text("lru"), value_text(None), value_text(True)
    ('0.1', 'lru', '', 'true')
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple | dict) and is_missing(value):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return json.dumps(value)


def _head(name: str, column: Column, rows: Sequence[Mapping[str, Any]]) -> str:
    title = html.escape(column.title.replace("-/", "").replace("/", " ").strip())
    kind = "text" if _is_text(name, rows) else "number"
    return f"<th scope='col' class='{kind}' data-name='{html.escape(name)}'><button type='button'>{title}</button></th>"


def _row(number: int, row: Mapping[str, Any], columns: Mapping[str, Column]) -> str:
    fields = []
    for name, column in columns.items():
        value = row.get(name)
        missing = not isinstance(value, list | tuple | dict) and is_missing(value)
        text = NOT_APPLICABLE if missing else column.text(value)
        kind = " class='text'" if isinstance(value, str | bool) else ""
        exact = value_text(value)
        data = "" if exact == text else f" data-value='{html.escape(exact)}'"
        fields.append(f"<td{kind}{data}>{html.escape(text)}</td>")
    return f"<tr data-row='{number}'>{''.join(fields)}</tr>"


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
    if isinstance(value, int | float) and not isinstance(value, bool):
        return NOT_APPLICABLE if is_missing(value) else str(text(value))
    return str(value)


def _plain(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return digits(value) if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"
