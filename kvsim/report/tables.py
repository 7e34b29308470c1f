"""The one table printer: rows under titles, aligned, as text that a person or a pipe can read; needs no pandas."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOT_APPLICABLE = "-"

WIDTH = 120
"""Columns of a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How one figure of a cell is printed."""

    title: str
    """Two lines at most, a ``/`` between."""
    text: Callable[[Any], str] = str


def aligned(
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    num_titles: int = 1,
    rule: bool = True,
    width: int | None = None,
) -> list[str]:
    """Return one line a row: the columns of `left` to the left, the others to the right.

    A row of one text is a heading over those that follow, an empty row an empty line.

    Parameters
    ----------
    num_titles
        Rows at the top that are titles.
    rule
        Draw a line under the titles.
    width
        Where the lines would be longer, columns stand one space apart in place of two.

    Examples
    --------
    >>> aligned([("policy", "hits"), ("lru", "12.5%")])
    ['policy   hits', '------  -----', 'lru     12.5%']
    """
    whole = [row for row in rows if len(row) > 1]
    sizes = [max(len(row[place]) for row in whole) for place in range(len(whole[0]))]
    gap = " " if width is not None and sum(sizes) + 2 * (len(sizes) - 1) > width else "  "

    def line(row: Sequence[str]) -> str:
        if len(row) < 2:
            return "".join(row)
        pairs = enumerate(zip(row, sizes, strict=True))
        return gap.join(
            text.ljust(size) if place in left else text.rjust(size) for place, (text, size) in pairs
        ).rstrip()

    lines = [line(row) for row in rows]
    return [*lines[:num_titles], *([gap.join("-" * size for size in sizes)] if rule else []), *lines[num_titles:]]


def wrapped(text: str) -> list[str]:
    """Return `text` in lines of at most `WIDTH` columns."""
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def table_text(
    cells: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Column],
    *,
    left: Collection[int] = (0,),
    apart_by: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """Return cells as a table, a row each, under titles of two lines; ``-`` where a figure does not apply.

    A column that no cell has is left out. Where a cell differs from the one above in a field of `apart_by`, an empty
    line stands between. `left` and `width` as in `aligned`.
    """
    shown = {name: column for name, column in columns.items() if any(name in cell for cell in cells)}
    titles = [column.title.partition("/") for column in shown.values()]
    rows: list[list[str]] = [[upper for upper, _, _ in titles], [lower for _, _, lower in titles]]
    for number, cell in enumerate(cells):
        if number and any(cell.get(name) != cells[number - 1].get(name) for name in apart_by):
            rows.append([])
        rows.append([shown_as(column, cell.get(name)) for name, column in shown.items()])
    return "\n".join(aligned(rows, left=left, num_titles=2, width=width))


def shown_as(column: Column, value: Any) -> str:
    """Return one figure as text, ``-`` where it does not apply."""
    return NOT_APPLICABLE if is_missing(value) else column.text(value)


def is_missing(value: Any) -> bool:
    """Return whether a figure does not apply: None or not a number."""
    return value is None or bool(value != value)  # true of nan alone


def records_csv(records: Sequence[Mapping[str, Any]]) -> bytes:
    r"""Return records as CSV, a column for each name, empty where a figure does not apply.

    Examples
    --------
    >>> records_csv([{"policy": "lru", "hits": 3}, {"policy": "fifo", "hits": None, "note": "a, b"}])
    b'policy,hits,note\nlru,3,\nfifo,,"a, b"\n'
    """
    names = dict.fromkeys(name for record in records for name in record)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(names)
    for record in records:
        values = (record.get(name) for name in names)
        rows.writerow("" if is_missing(value) else value for value in values)
    return text.getvalue().encode()


KIND_WORDS = {"published": "published figures", "estimated": "estimated from a data sheet"}
"""What headers and captions call a kind of profile, where its name alone could be taken for a measurement."""


def header_text(summary: Mapping[str, Any], *more: str) -> str:
    """Return the line above a result's tables: its scenario, and whose costs it has or that it was measured."""
    how = "measured" if summary.get("is_measured") else costs_text(summary["profile"], *more)
    return f"{summary['scenario']}: {how}"


def costs_text(profile: Mapping[str, Any], *more: str) -> str:
    """Return whose costs a table has, from a summary's ``profile``, and whose times where they are another model's.

    Examples
    --------
    >>> costs_text({"name": "a", "kind": "published", "times_of": "times of another model, 2 layers of 8 in bf16"})
    'costs of a (published figures; times of another model, 2 layers of 8 in bf16)'
    """
    kind = KIND_WORDS.get(profile["kind"], profile["kind"])
    others = [profile["times_of"]] if "times_of" in profile else []
    return f"costs of {profile['name']} ({'; '.join([', '.join([kind, *more]), *others])})"


def result_text(summary: Mapping[str, Any], *parts: str) -> str:
    """Return a whole result as it is printed: the header, its tables and texts, and the verdict."""
    return "\n\n".join([header_text(summary), *parts, "\n".join(summary["verdict"])]).rstrip()


def digits(value: float) -> str:
    """Return three significant digits without an exponent."""
    size = abs(value)
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def scaled(unit: float) -> Callable[[Any], str]:
    """Return a function that prints a value in `unit` with three significant digits."""
    return lambda value: digits(value / unit)


def percent(value: float | None, places: int = 1) -> str:
    """Return a share as a percentage, ``-`` where it does not apply.

    Examples
    --------
    >>> percent(0.1234), percent(0.5, 0), percent(None)
    ('12.3%', '50%', '-')
    """
    return NOT_APPLICABLE if value is None or is_missing(value) else f"{100 * value:z.{places}f}%"


def signed_percent(value: float | None, places: int = 1) -> str:
    """Return an error or a change as a percentage with its sign, ``-`` where it does not apply.

    Examples
    --------
    >>> signed_percent(0.1234), signed_percent(-0.00001)
    ('+12.3%', '+0.0%')
    """
    return NOT_APPLICABLE if value is None or is_missing(value) else f"{100 * value:+z.{places}f}%"
