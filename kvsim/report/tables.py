"""Figures of a table as text that a person or a pipe can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """How one figure of a cell is printed."""

    title: str
    """Two lines at most, a ``/`` between."""
    text: Callable[[Any], str]


def digits(value: float) -> str:
    """Return three significant digits without an exponent."""
    size = abs(value)
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def scaled(unit: float) -> Callable[[Any], str]:
    """Return a function that prints a value in `unit` with three significant digits."""
    return lambda value: digits(value / unit)


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def costs_text(profile: Mapping[str, Any], *more: str) -> str:
    """Return whose costs a table has, from a summary's ``profile``, and whose times where they are another model's.

    Examples
    --------
    >>> costs_text({"name": "a", "kind": "published", "times_of": "times of another model, 2 layers of 8 in bf16"})
    'costs of a (published figures; times of another model, 2 layers of 8 in bf16)'
    """
    kind = "published figures" if profile["kind"] == "published" else profile["kind"]
    others = [profile["times_of"]] if "times_of" in profile else []
    return f"costs of {profile['name']} ({'; '.join([', '.join([kind, *more]), *others])})"


def cell_text(column: Column, value: Any) -> str:
    """Return one figure as text, ``-`` where it does not apply."""
    return "-" if pd.isna(value) else column.text(value)


def table_line(row: Sequence[str], widths: Sequence[int], gap: str) -> str:
    """Return a row with its first column to the left and the others to the right."""
    numbers = [text.rjust(size) for text, size in zip(row[1:], widths[1:], strict=True)]
    return gap.join([row[0].ljust(widths[0]), *numbers]).rstrip()
