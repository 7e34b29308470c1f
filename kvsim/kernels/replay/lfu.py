"""LFU: the id with the fewest accesses since it came leaves, among equals the one accessed longest ago.

Constant time an access, after Shah, Mitra and Matani, "An O(1) algorithm for implementing the LFU cache eviction
scheme" (2010): a ring of counts in use, and a ring of slots for each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import NONE, Word
from kvsim.kernels.replay.rings import first_of, join_last, leave, make_empty

_ONE = np.uint64(1)
_USED, _NUM_SPARE = 0, 1

State = tuple[
    NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]
]


def make_state(capacity: int) -> State:
    """Return an empty cache: ids and counts' places by slot, accesses and links of counts, links of slots, registers.

    Count number `n` has its ring of slots at ``capacity + n``. Registers hold the slots in use, how many counts are
    spare, and then which.
    """
    num_counts = capacity + 1
    order = np.zeros(2 * (num_counts + 1), dtype=np.uint32)
    make_empty(order, np.uint64(num_counts))
    registers = np.concatenate(([0, num_counts], np.arange(num_counts))).astype(np.int64)
    return (
        np.full(capacity, NONE),
        np.zeros(capacity, dtype=np.uint32),
        np.zeros(num_counts, dtype=np.int64),
        order,
        np.zeros(2 * (capacity + num_counts), dtype=np.uint32),
        registers,
    )


@njit(inline="always")
def _join(
    keys: NDArray[np.uint32],
    count_of: NDArray[np.uint32],
    amounts: NDArray[np.int64],
    order: NDArray[np.uint32],
    links: NDArray[np.uint32],
    registers: NDArray[np.int64],
    slot: Word,
    accesses: Word,
    after: Word,
) -> None:
    """Put `slot` last among those with as many `accesses`; their count is `after` or one made before it."""
    count = after
    if after == np.uint64(amounts.size) or amounts[after] != accesses:
        registers[_NUM_SPARE] -= 1
        count = np.uint64(registers[2 + registers[_NUM_SPARE]])
        amounts[count] = accesses
        make_empty(links, np.uint64(keys.size) + count)
        join_last(order, after, count)
    join_last(links, np.uint64(keys.size) + count, slot)
    count_of[slot] = count


@njit(inline="always")
def _leave(
    keys: NDArray[np.uint32],
    count_of: NDArray[np.uint32],
    order: NDArray[np.uint32],
    links: NDArray[np.uint32],
    registers: NDArray[np.int64],
    slot: Word,
) -> None:
    """Take `slot` from its count, and drop the count where it was the last."""
    count = np.uint64(count_of[slot])
    leave(links, slot)
    ring = np.uint64(keys.size) + count
    if first_of(links, ring) == ring:
        leave(order, count)
        registers[2 + registers[_NUM_SPARE]] = count
        registers[_NUM_SPARE] += 1


@njit
def access(
    where: NDArray[np.uint32],
    state: State,
    ids: NDArray[np.uint32],
    hits: NDArray[np.bool_] | None,
    victims: NDArray[np.uint32] | None,
) -> int:
    """Carry out accesses; see `kvsim.kernels.replay.contract`."""
    keys, count_of, amounts, order, links, registers = state
    capacity = np.uint64(keys.size)
    counts = np.uint64(amounts.size)
    misses = 0
    for at in range(np.uint64(ids.size)):
        key = ids[at]
        slot = np.uint64(where[key])
        if slot != NONE:
            if hits is not None:
                hits[at] = True
            count = np.uint64(count_of[slot])
            accesses = amounts[count] + 1
            after = first_of(order, count)
            _leave(keys, count_of, order, links, registers, slot)
            _join(keys, count_of, amounts, order, links, registers, slot, accesses, after)
            continue
        misses += 1
        victim = NONE
        if registers[_USED] < keys.size:
            slot = np.uint64(registers[_USED])
            registers[_USED] += 1
        else:
            slot = first_of(links, capacity + first_of(order, counts))
            victim = keys[slot]
            where[victim] = NONE
            _leave(keys, count_of, order, links, registers, slot)
        if victims is not None:
            victims[at] = victim
        keys[slot] = key
        where[key] = slot
        _join(keys, count_of, amounts, order, links, registers, slot, 1, first_of(order, counts))
    return ids.size - misses
