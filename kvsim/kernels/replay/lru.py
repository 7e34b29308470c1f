"""LRU as a log of accesses, and with it second-touch admission.

Each access writes its id at the log's end and marks its earlier entry as stale, so a hit costs three stores that wait
for nothing; who leaves is found by passing stale entries at the tail, 32 at a time. A full log is compacted to what is
resident. A linked list measured three quarters of its speed on page accesses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.bits import lowest_bit
from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import NONE, NOT_ADMITTED, Word

_SEEN = np.uint32(NONE - 1)
"""Of an id that is not resident and was met before; `NONE` is of one never met."""
_ONE, _THREE, _SEVEN, _ALL = np.uint64(1), np.uint64(3), np.uint64(7), np.uint64(2**64 - 1)
_FRESH = np.uint64(0x0101010101010101)
_GATHER = np.uint64(0x0102040810204080)
"""Times eight bytes of 0 or 1, brings them together in the highest byte."""
_TAIL, _END, _FREE, _ADMITS_ALL = range(4)
_MARGIN = 32

State = tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.int64]]


def make_state(capacity: int, *, admits_all: bool = True, log_entries: int | None = None) -> State:
    """Return an empty cache: the log, a byte an entry that is 1 until the entry is stale, and registers.

    Parameters
    ----------
    capacity
        Ids that can be resident.
    admits_all
        False lets an id in only when it is met for the second time.
    log_entries
        At least ``capacity + 1``; rounded up to a multiple of 8.
    """
    entries = max(log_entries or max(2**16, 16 * capacity), capacity + 1)
    entries = -(-entries // 8) * 8
    fresh = np.full((entries + _MARGIN) // 8, _FRESH)
    return np.zeros(entries, dtype=np.uint32), fresh, np.array([0, 0, capacity, admits_all], dtype=np.int64)


@njit
def _fresh_bits(fresh: NDArray[np.uint64], word: Word) -> Word:
    """Return which of 32 entries are not stale, the first of them in bit 0."""
    bits = (fresh[word] * _GATHER) >> np.uint64(56)
    for further in range(np.uint64(1), np.uint64(4)):
        bits |= ((fresh[word + further] * _GATHER) >> np.uint64(56)) << (further << _THREE)
    return bits


@njit
def _next_fresh(fresh: NDArray[np.uint64], tail: Word) -> Word:
    word = tail >> _THREE
    bits = _fresh_bits(fresh, word) & (_ALL << (tail & _SEVEN))
    while bits == 0:
        word += np.uint64(4)
        bits = _fresh_bits(fresh, word)
    return (word << _THREE) + lowest_bit(bits)


@njit
def _compact(where: NDArray[np.uint32], log: NDArray[np.uint32], fresh: NDArray[np.uint64], tail: Word) -> Word:
    """Move the entries that are not stale to the front, in order; return how many."""
    end = np.uint64(0)
    for word in range(tail >> _THREE, np.uint64(log.size) >> _THREE):
        bits = (fresh[word] * _GATHER) >> np.uint64(56)
        if word == tail >> _THREE:
            bits &= _ALL << (tail & _SEVEN)
        while bits != 0:
            key = log[(word << _THREE) + lowest_bit(bits)]
            bits &= bits - _ONE
            log[end] = key
            where[key] = end
            end += _ONE
    fresh[:] = _FRESH
    return end


@njit
def access(
    where: NDArray[np.uint32],
    state: State,
    ids: NDArray[np.uint32],
    hits: NDArray[np.bool_] | None,
    victims: NDArray[np.uint32] | None,
) -> int:
    """Carry out accesses; see `kvsim.kernels.replay.contract`."""
    log, fresh, registers = state
    is_fresh = fresh.view(np.uint8)
    tail, end, free = np.uint64(registers[_TAIL]), np.uint64(registers[_END]), np.uint64(registers[_FREE])
    admits_all = registers[_ADMITS_ALL] != 0
    misses = 0
    for at in range(np.uint64(ids.size)):
        key = ids[at]
        before = where[key]
        if before < _SEEN:
            is_fresh[before] = 0
            if hits is not None:
                hits[at] = True
        else:
            misses += 1
            if before == NONE and not admits_all:
                where[key] = _SEEN
                if victims is not None:
                    victims[at] = NOT_ADMITTED
                continue
            if free > 0:
                free -= _ONE
                if victims is not None:
                    victims[at] = NONE
            else:
                tail = _next_fresh(fresh, tail)
                victim = log[tail]
                tail += _ONE
                where[victim] = _SEEN
                if victims is not None:
                    victims[at] = victim
        where[key] = end
        log[end] = key
        end += _ONE
        if end == np.uint64(log.size):
            end = _compact(where, log, fresh, tail)
            tail = np.uint64(0)
    registers[_TAIL], registers[_END], registers[_FREE] = tail, end, free
    return ids.size - misses
