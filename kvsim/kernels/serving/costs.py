"""What a step costs: the tables of a profile, interpolated as there, and the spread of single steps around them.

Arrays behind one address (`kvsim.kernels.arrays`):

===========  ==================  =====================================================================================
`TABLES`     floats              one table after another: its number of amounts, the amounts, and the seconds
`NUMBERS`    whole numbers       where the table of each part begins, then how many steps there were
`TOTALS`     floats              seconds of each part in all steps so far, without the spread
`MOST`       floats              the greatest amount of each part in one step so far
`FACTORS`    floats              what the time of each step is multiplied with, from the first again after the last
===========  ==================  =====================================================================================
"""

from __future__ import annotations

from kvsim.kernels.arrays import compiled, floats, ints
from kvsim.kernels.interpolation import row_at

(TABLES, NUMBERS, TOTALS, MOST, FACTORS) = range(5)
NUM_ARRAYS = 5

(HOST, TOKENS, KEYS, PAIRS, SAMPLED) = range(5)
NUM_PARTS = 5
NUM_STEPS = NUM_PARTS
NUM_NUMBERS = NUM_PARTS + 1


@compiled
def step_s(costs, requests, tokens, sampled, context_tokens, attention_pairs):
    """Return the seconds of the host and of the forward pass of one step, and count them."""
    starts = ints(costs, NUMBERS)
    host_s = _part_s(costs, HOST, requests)
    forward_s = _part_s(costs, TOKENS, tokens)
    forward_s += _part_s(costs, KEYS, context_tokens)
    forward_s += _part_s(costs, PAIRS, attention_pairs)
    forward_s += _part_s(costs, SAMPLED, sampled)
    factors = floats(costs, FACTORS)
    factor = factors[starts[NUM_STEPS] % factors.size]
    starts[NUM_STEPS] += 1
    return factor * host_s, factor * forward_s


@compiled
def _part_s(costs, part, amount):
    totals, most = floats(costs, TOTALS), floats(costs, MOST)
    part_s = at_s(floats(costs, TABLES), ints(costs, NUMBERS)[part], float(amount))
    totals[part] += part_s
    most[part] = max(most[part], float(amount))
    return part_s


@compiled
def at_s(tables, start, amount):
    """Return the seconds by the table at `start`: ``CostTable.at_s`` operation by operation."""
    size = int(tables[start])
    amounts, values = start + 1, start + 1 + size
    row, frac = row_at(tables, amounts, size, amount)
    if frac == 0.0:
        return tables[values + row]
    return max(tables[values + row] + frac * (tables[values + row + 1] - tables[values + row]), 0.0)
