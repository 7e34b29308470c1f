"""Plain text without pandas: aligned columns and wrapped lines, for commands that answer at once."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

WIDTH = 120
"""Columns of a line."""


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,), rule: bool = True) -> list[str]:
    """Return one line a row: the columns of `left` to the left and the others to the right.

    Parameters
    ----------
    rule
        Draw a line under the first row, the head.

    Examples
    --------
    >>> aligned([("card", "GB/s"), ("h100", "3,350")])
    ['card   GB/s', '----  -----', 'h100  3,350']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    ruled = [rows[0], tuple("-" * width for width in widths), *rows[1:]] if rule else rows
    return [
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in ruled
    ]


def wrapped(text: str) -> list[str]:
    """Return `text` in lines of at most `WIDTH` columns."""
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)
