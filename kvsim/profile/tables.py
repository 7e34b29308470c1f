"""A table of measured costs, interpolated linearly; what its columns count has a name, which every question gives."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, TypedDict, TypeVar, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BeforeValidator, NonNegativeFloat, model_validator

from kvsim.scenario.toml import Strict
from kvsim.types import FloatArray, IntArray

_T = TypeVar("_T")

Amount: TypeAlias = Literal["none", "tokens", "pages", "pieces", "rows", "requests", "keys", "pairs"]
Column: TypeAlias = Literal["none", "sequences", "cached_tokens", "grid_pages", "piece_bytes", "row_bytes"]


class At(TypedDict, total=False):
    """Which column is asked for, by the name of what the columns count; a number, or an array for many costs at once.

    mypy knows the names; a table that is asked by another name than its own refuses.
    """

    sequences: Any
    """Of the batch."""
    cached_tokens: Any
    """Of each sequence, before those that are computed."""
    grid_pages: Any
    """Pages of the whole batch in all layers (`PageGrid.num_pages`)."""
    piece_bytes: Any
    """Of one piece of a transfer."""
    row_bytes: Any
    """Of one embedding row."""


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


Row: TypeAlias = Annotated[tuple[_T, ...], BeforeValidator(_as_tuple)]


class CostTable(Strict):
    """Seconds over a grid of amounts x columns, linear between grid points and beyond the last two.

    ``time_s[i][j]`` is the cost at ``amounts[i]`` and ``columns[j]``. Below the first amount or column the first value
    holds (a cost never shrinks below what was measured).
    """

    amount: Amount
    """What `amounts` counts: tokens, pages or requests of the batch, keys read, pairs of a query and a key, pieces of
    one transfer, rows of a table, or nothing."""
    amounts: Row[NonNegativeFloat]
    columns_are: Column = "none"
    """What `columns` counts, by its name in `At`; ``none``: the cost depends on the amount alone."""
    columns: Row[NonNegativeFloat] = (1.0,)
    time_s: Row[Row[NonNegativeFloat]]
    residual_low_frac: float = 0.0
    """5th percentile of sample / table - 1: the lower edge of a 90% interval of one occurrence."""
    residual_high_frac: float = 0.0
    """95th percentile of sample / table - 1."""
    median_error_frac: NonNegativeFloat = 0.0
    """Relative standard error of the medians on the grid, the mean over its points."""
    num_samples: int = 0
    samples: Row[Row[float]] = ()
    """Raw samples: rows of (amount, column, seconds)."""
    source: str = ""
    """For a published number: where it was published."""

    @model_validator(mode="after")
    def _is_grid(self) -> CostTable:
        if len(self.time_s) != len(self.amounts) or any(len(row) != len(self.columns) for row in self.time_s):
            raise ValueError("time_s must have a row for each of amounts and a column for each of columns")
        for name, grid in (("amounts", self.amounts), ("columns", self.columns)):
            if not grid or any(right <= left for left, right in itertools.pairwise(grid)):
                raise ValueError(f"{name} must not be empty and must increase")
        if self.columns_are == "none" and len(self.columns) > 1:
            raise ValueError("columns_are must say what several columns count")
        return self

    def at_s(self, amount: float, **at: Unpack[At]) -> float:
        """Return the seconds of `amount` in the column that `at` names, interpolated linearly.

        Examples
        --------
        >>> times = {"amounts": (0.0, 10.0), "columns": (1.0, 3.0), "time_s": ((1e-6, 1e-6), (3e-6, 5e-6))}
        >>> table = CostTable(amount="pages", columns_are="sequences", **times)
        >>> round(table.at_s(5, sequences=2) * 1e6, 6)
        2.5
        """
        return self.point_s(amount, self._asked(at))

    def point_s(self, amount: float, column: float) -> float:
        """Return the seconds at a point of the table's own axes, whatever its columns count: for what shows a table."""
        row, row_frac = _place(self.amounts, amount)
        place, column_frac = _place(self.columns, column)
        return max(_mix(self.time_s, row, row_frac, place, column_frac), 0.0)

    def times_s(self, amounts: IntArray | FloatArray, **at: Unpack[At]) -> FloatArray:
        """Return `at_s` of many amounts, each in its own column or all in one, ``[n]``."""
        rows, row_frac = _places(self.amounts, amounts)
        columns, column_frac = _places(self.columns, np.broadcast_to(self._asked(at), amounts.shape))
        time_s = np.array(self.time_s)
        below, beside = np.minimum(rows + 1, len(time_s) - 1), np.minimum(columns + 1, len(self.columns) - 1)
        left = time_s[rows, columns] + row_frac * (time_s[below, columns] - time_s[rows, columns])
        right = time_s[rows, beside] + row_frac * (time_s[below, beside] - time_s[rows, beside])
        times_s: FloatArray = np.maximum(left + column_frac * (right - left), 0.0)
        return times_s

    def column_at(self, **at: Unpack[At]) -> tuple[int, float]:
        """Return the place of the column left of that asked for, and how far it lies towards the next one."""
        return _place(self.columns, self._asked(at))

    def covers(self, amount: ArrayLike, **at: Unpack[At]) -> NDArray[np.bool_]:
        """Return whether a cost lies inside the measured range, of one or of many."""
        column, amount = np.asarray(self._asked(at)), np.asarray(amount)
        is_inside = (self.amounts[0] <= amount) & (amount <= self.amounts[-1])
        is_covered: NDArray[np.bool_] = is_inside & (self.columns[0] <= column) & (column <= self.columns[-1])
        return is_covered

    def changed(self, change: Callable[[float, float, float], float]) -> CostTable:
        """Return the table with every time changed, a function of amount, column and seconds; raw samples are left out.

        Examples
        --------
        >>> table = CostTable(amount="none", amounts=(0.0,), time_s=((2.0,),))
        >>> table.changed(lambda amount, column, time_s: time_s / 4).time_s
        ((0.5,),)
        """
        rows = zip(self.amounts, self.time_s, strict=True)
        times_s = tuple(
            tuple(change(amount, column, time_s) for column, time_s in zip(self.columns, row, strict=True))
            for amount, row in rows
        )
        return self.model_copy(update={"time_s": times_s, "samples": ()})

    def _asked(self, at: At) -> Any:
        """Return the column asked for; any name will do where the cost depends on the amount alone."""
        if self.columns_are == "none":
            return self.columns[0]
        if list(at) != [self.columns_are]:
            raise TypeError(f"a cost over {self.columns_are} was asked for by {', '.join(at) or 'no column'}")
        return at[self.columns_are]


def _place(grid: tuple[float, ...], value: float) -> tuple[int, float]:
    if len(grid) == 1 or value <= grid[0]:
        return 0, 0.0
    left = min(bisect.bisect_right(grid, value) - 1, len(grid) - 2)
    return left, (value - grid[left]) / (grid[left + 1] - grid[left])


def _places(grid: tuple[float, ...], values: NDArray[Any]) -> tuple[IntArray, FloatArray]:
    """Return `_place` of many."""
    if len(grid) == 1:
        return np.zeros(values.shape, dtype=np.int64), np.zeros(values.shape)
    points = np.array(grid)
    left = np.clip(np.searchsorted(points, values, side="right") - 1, 0, len(grid) - 2)
    frac = np.maximum((values - points[left]) / (points[left + 1] - points[left]), 0.0)
    return left, frac


def _mix(table: tuple[tuple[float, ...], ...], row: int, row_frac: float, column: int, column_frac: float) -> float:
    value = table[row][column]
    if row_frac:
        value += row_frac * (table[row + 1][column] - value)
    if not column_frac:
        return value
    beside = table[row][column + 1]
    if row_frac:
        beside += row_frac * (table[row + 1][column + 1] - beside)
    return value + column_frac * (beside - value)
