"""Where an amount lies among the rows of a cost table, as `kvsim.profile.tables` finds it."""

from __future__ import annotations

from kvsim.kernels.arrays import compiled


@compiled
def row_at(tables, amounts, size, amount):
    """Return the row to begin with and the share of the next; beyond the last row, from the last two.

    Parameters
    ----------
    amounts, size
        Where the amounts of the rows begin in `tables`, ascending, and how many they are.
    """
    if size <= 1 or amount <= tables[amounts]:
        return 0, 0.0
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if amount < tables[amounts + middle]:
            high = middle
        else:
            low = middle + 1
    row = min(low - 1, size - 2)
    return row, (amount - tables[amounts + row]) / (tables[amounts + row + 1] - tables[amounts + row])
