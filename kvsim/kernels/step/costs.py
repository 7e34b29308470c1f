"""What work costs inside a compiled run: the tables of a profile at the run's batch, interpolated as there."""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import compiled, float_rows, floats, ints
from kvsim.kernels.interpolation import row_at
from kvsim.kernels.step.layout import CARRIED_S, CLOCK, COUNTS, DECIDE, HOST_TABLE, MEMO, TABLE, TABLES, TO_DEVICE_TABLE


@compiled
def at_s(tables, start, amount):
    """Return the seconds of `amount` by the table at `start`: ``CostTable.at_s`` operation by operation.

    A table is its number of amounts, the share of its right column, the amounts, and both columns.
    """
    size = int(tables[start])
    if size == 0:
        return 0.0
    column_frac = tables[start + 1]
    amounts, left, right = start + 2, start + 2 + size, start + 2 + 2 * size
    row, row_frac = row_at(tables, amounts, size, amount)
    value = tables[left + row]
    if row_frac != 0.0:
        value += row_frac * (tables[left + row + 1] - value)
    if column_frac != 0.0:
        right_value = tables[right + row]
        if row_frac != 0.0:
            right_value += row_frac * (tables[right + row + 1] - right_value)
        value = value + column_frac * (right_value - value)
    return max(value, 0.0)


@compiled
def remember(run, segment, amount):
    """Return where in the clock the costs of `segment` stand, worked out anew only where the amount has changed.

    They are ``amount, device_s, host_s``; the tail, which depends on nothing, stands behind them.
    """
    clock = floats(run, CLOCK)
    place = MEMO + 4 * segment
    if clock[place] != amount:
        _work_out(run, segment, float(amount))
    return place


@compiled
def _work_out(run, segment, amount):
    counts, clock, tables = ints(run, COUNTS), floats(run, CLOCK), floats(run, TABLES)
    place = MEMO + 4 * segment
    clock[place] = amount
    clock[place + 1] = at_s(tables, counts[TABLE + segment], amount)
    if segment != DECIDE:
        clock[place + 2] = at_s(tables, counts[TABLE + HOST_TABLE + segment], amount)


@compiled
def transfer_s(run, direction, num_pages):
    """Return the time of `num_pages` over the idle link, and keep what was worked out."""
    carried_s = float_rows(run, CARRIED_S)
    known_s = carried_s[direction, num_pages]
    if np.isnan(known_s):
        counts, tables = ints(run, COUNTS), floats(run, TABLES)
        known_s = at_s(tables, counts[TABLE + TO_DEVICE_TABLE + direction], float(num_pages)) if num_pages else 0.0
        carried_s[direction, num_pages] = known_s
    return known_s
