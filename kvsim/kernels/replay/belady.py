"""Belady's MIN (IBM Systems Journal 5(2), 1966): who is needed again last, or never, leaves.

The next uses of what is resident are distinct times, so the farthest is the highest bit set in a bitmap of times, with
three summaries, 64 bits to one, above it: no heap. Bits of the past are never cleared: as long as anything resident is
needed again its bit is higher. Every key is let in, as libCacheSim's does: the bound of all policies that let every
key in, and not of those that refuse some. What is never needed again leaves first, the latest of them first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.bits import highest_bit
from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import NONE, Word

_ONE, _SIX, _LOW = np.uint64(1), np.uint64(6), np.uint64(63)
_NOW, _FREE, _NUM_NEVER = range(3)

State = tuple[
    NDArray[np.uint32],
    NDArray[np.uint32],
    NDArray[np.uint64],
    NDArray[np.uint64],
    NDArray[np.uint64],
    NDArray[np.uint64],
    NDArray[np.uint32],
    NDArray[np.int64],
]


def make_state(capacity: int, *, future: NDArray[np.uint32], num_ids: int) -> State:
    """Return an empty cache that knows all accesses to come: trace, next uses, bitmap and summaries, who is not needed.

    Its ``access`` must be given the ids of `future`, in order.
    """
    maps = []
    bits = future.size
    for _ in range(4):
        bits = bits // 64 + 1
        maps.append(np.zeros(bits, dtype=np.uint64))
    registers = np.array([0, capacity, 0], dtype=np.int64)
    return (
        future,
        next_uses(future, num_ids),
        maps[0],
        maps[1],
        maps[2],
        maps[3],
        np.zeros(num_ids, np.uint32),
        registers,
    )


@njit
def next_uses(ids: NDArray[np.uint32], num_ids: int) -> NDArray[np.uint32]:
    """Return when each access's id is accessed next, or `NONE`."""
    coming = np.full(num_ids, NONE, dtype=np.uint32)
    uses = np.empty(ids.size, dtype=np.uint32)
    size = np.uint64(ids.size)
    for back in range(size):
        at = size - _ONE - back
        key = ids[at]
        uses[at] = coming[key]
        coming[key] = at
    return uses


@njit
def _farthest(
    times: NDArray[np.uint64], low: NDArray[np.uint64], mid: NDArray[np.uint64], top: NDArray[np.uint64]
) -> Word:
    """Return the highest time set, and clear it."""
    word = np.uint64(top.size - 1)
    while top[word] == 0:
        word -= _ONE
    word = (word << _SIX) + highest_bit(top[word])
    word = (word << _SIX) + highest_bit(mid[word])
    word = (word << _SIX) + highest_bit(low[word])
    time = (word << _SIX) + highest_bit(times[word])
    times[word] &= ~(_ONE << (time & _LOW))
    if times[word] == 0:
        low[word >> _SIX] &= ~(_ONE << (word & _LOW))
        if low[word >> _SIX] == 0:
            word >>= _SIX
            mid[word >> _SIX] &= ~(_ONE << (word & _LOW))
            if mid[word >> _SIX] == 0:
                word >>= _SIX
                top[word >> _SIX] &= ~(_ONE << (word & _LOW))
    return time


@njit
def access(
    where: NDArray[np.uint32],
    state: State,
    ids: NDArray[np.uint32],
    hits: NDArray[np.bool_] | None,
    victims: NDArray[np.uint32] | None,
) -> int:
    """Carry out accesses; see `kvsim.kernels.replay.contract`."""
    trace, uses, times, low, mid, top, never, registers = state
    now, free, num_never = np.uint64(registers[_NOW]), np.uint64(registers[_FREE]), np.uint64(registers[_NUM_NEVER])
    misses = 0
    for at in range(np.uint64(ids.size)):
        key = ids[at]
        if where[key] != NONE:
            if hits is not None:
                hits[at] = True
        else:
            misses += 1
            victim = NONE
            if free > 0:
                free -= _ONE
            elif num_never > 0:
                num_never -= _ONE
                victim = never[num_never]
            else:
                victim = trace[_farthest(times, low, mid, top)]
            if victim != NONE:
                where[victim] = NONE
            if victims is not None:
                victims[at] = victim
            where[key] = 0
        use = uses[now + at]
        if use == NONE:
            never[num_never] = key
            num_never += _ONE
            continue
        word = np.uint64(use) >> _SIX
        before = times[word]
        times[word] = before | (_ONE << (use & _LOW))
        if before == 0:
            low[word >> _SIX] |= _ONE << (word & _LOW)
            word >>= _SIX
            mid[word >> _SIX] |= _ONE << (word & _LOW)
            word >>= _SIX
            top[word >> _SIX] |= _ONE << (word & _LOW)
    registers[_NOW], registers[_FREE], registers[_NUM_NEVER] = now + np.uint64(ids.size), free, num_never
    return ids.size - misses
