"""A table of measured costs, interpolated linearly."""

from __future__ import annotations

import bisect
import itertools
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BeforeValidator, NonNegativeFloat, model_validator

from kvsim.scenario.toml import Strict

_T = TypeVar("_T")


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


Row: TypeAlias = Annotated[tuple[_T, ...], BeforeValidator(_as_tuple)]


class CostTable(Strict):
    """Seconds over a grid of amount x batch, linear between grid points and beyond the last two.

    ``time_s[i][j]`` is the cost at ``amounts[i]`` and ``batches[j]``. Below the first amount the first value
    holds (a cost never shrinks below what was measured). `amount` says what is counted.
    """

    amount: Literal["none", "tokens", "pages", "pieces", "rows", "requests", "keys", "pairs"]
    """What `amounts` counts: tokens, pages or requests of the batch, keys read, pairs of a query and a key, pieces of
    one transfer, rows of a table, or nothing."""
    amounts: Row[NonNegativeFloat]
    batches: Row[NonNegativeFloat]
    """Sequences of the batch; for a copy, the bytes of one piece."""
    time_s: Row[Row[NonNegativeFloat]]
    residual_low_frac: float = 0.0
    """5th percentile of sample / table - 1: the lower edge of a 90% interval of one occurrence."""
    residual_high_frac: float = 0.0
    """95th percentile of sample / table - 1."""
    median_error_frac: NonNegativeFloat = 0.0
    """Relative standard error of the medians on the grid, the mean over its points."""
    num_samples: int = 0
    samples: Row[Row[float]] = ()
    """Raw samples: rows of (amount, batch, seconds)."""
    source: str = ""
    """For a published number: where it was published."""

    @model_validator(mode="after")
    def _is_grid(self) -> CostTable:
        if len(self.time_s) != len(self.amounts) or any(len(row) != len(self.batches) for row in self.time_s):
            raise ValueError("time_s must have a row for each of amounts and a column for each of batches")
        for name, grid in (("amounts", self.amounts), ("batches", self.batches)):
            if not grid or any(right <= left for left, right in itertools.pairwise(grid)):
                raise ValueError(f"{name} must not be empty and must increase")
        return self

    def at_s(self, amount: float, batch: float) -> float:
        """Return the seconds of `amount` at `batch`, interpolated linearly.

        Examples
        --------
        >>> table = CostTable(amount="pages", amounts=(0.0, 10.0), batches=(1.0,), time_s=((1e-6,), (3e-6,)))
        >>> round(table.at_s(5, 1) * 1e6, 6)
        2.0
        """
        row, row_frac = _place(self.amounts, amount)
        column, column_frac = _place(self.batches, batch)
        value_s = _mix(self.time_s, row, row_frac, column, column_frac)
        return max(value_s, 0.0)

    def column_at(self, batch: float) -> tuple[int, float]:
        """Return the column left of `batch`, and how far it lies towards the next one."""
        return _place(self.batches, batch)

    def covers(self, amount: float, batch: float) -> bool:
        """Return whether (`amount`, `batch`) lies inside the measured range."""
        return self.amounts[0] <= amount <= self.amounts[-1] and self.batches[0] <= batch <= self.batches[-1]


def _place(grid: tuple[float, ...], value: float) -> tuple[int, float]:
    if len(grid) == 1 or value <= grid[0]:
        return 0, 0.0
    left = min(bisect.bisect_right(grid, value) - 1, len(grid) - 2)
    return left, (value - grid[left]) / (grid[left + 1] - grid[left])


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
