"""What a step costs: the tables of a profile, interpolated as there, and the spread of single steps around them.

Arrays behind one address (`kvsim.kernels.arrays`):

===========  ==================  =====================================================================================
`TABLES`     floats              one table after another: its numbers of amounts and of columns, both, and the seconds
`NUMBERS`    whole numbers       where the table of each part begins, then how many steps there were
`TOTALS`     floats              seconds of each part in all steps so far, without the spread
`FACTORS`    floats              what the time of each step is multiplied with, from the first again after the last
===========  ==================  =====================================================================================
"""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, floats, ints

(TABLES, NUMBERS, TOTALS, FACTORS) = range(4)
NUM_ARRAYS = 4

(HOST, TOKENS, KEYS, PAIRS, SAMPLED) = range(5)
NUM_PARTS = 5
NUM_STEPS = NUM_PARTS
NUM_NUMBERS = NUM_PARTS + 1


@compiled
def step_s(costs, requests, tokens, sampled, context_tokens, attention_pairs):
    """Return the seconds of the host and of the forward pass of one step, and count them."""
    tables, starts, totals = floats(costs, TABLES), ints(costs, NUMBERS), floats(costs, TOTALS)
    host_s = at_s(tables, starts[HOST], float(requests), 0.0)
    totals[HOST] += host_s
    forward_s = 0.0
    for part, amount in ((TOKENS, tokens), (KEYS, context_tokens), (PAIRS, attention_pairs), (SAMPLED, sampled)):
        part_s = at_s(tables, starts[part], float(amount), float(requests))
        totals[part] += part_s
        forward_s += part_s
    factors = floats(costs, FACTORS)
    factor = factors[starts[NUM_STEPS] % factors.size]
    starts[NUM_STEPS] += 1
    return factor * host_s, factor * forward_s


@compiled
def at_s(tables, start, amount, column):
    """Return the seconds by the table at `start`: ``CostTable.at_s`` operation by operation."""
    num_rows, num_columns = int(tables[start]), int(tables[start + 1])
    amounts, columns = start + 2, start + 2 + num_rows
    values = columns + num_columns
    row, row_frac = _place(tables, amounts, num_rows, amount)
    place, column_frac = _place(tables, columns, num_columns, column)
    value = _between(tables, values + row * num_columns + place, num_columns, row_frac)
    if column_frac != 0.0:
        other = _between(tables, values + row * num_columns + place + 1, num_columns, row_frac)
        value += column_frac * (other - value)
    return max(value, 0.0)


@compiled
def _between(tables, place, num_columns, row_frac):
    value = tables[place]
    if row_frac != 0.0:
        value += row_frac * (tables[place + num_columns] - value)
    return value


@compiled
def _place(tables, first, size, value):
    """Return the place left of `value` in a grid, and how far it lies towards the next one."""
    if size == 1 or value <= tables[first]:
        return 0, 0.0
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if value < tables[first + middle]:
            high = middle
        else:
            low = middle + 1
    left = min(low - 1, size - 2)
    return left, (value - tables[first + left]) / (tables[first + left + 1] - tables[first + left])
