"""S3-FIFO (Yang et al., SOSP 2023): a small FIFO for newcomers, a main one for what was read again, and ghosts.

As in the paper: the small queue is a tenth; out of it goes to main what was hit at least twice, to the ghosts what was
not; main lets go of what was not hit since its last turn, counting to three. A ghost is found by its turn in a ring of
as many as main holds, so one that was met again keeps its turn until it has passed (the paper's own scheme).
libCacheSim's differs twice: until the cache is first full it puts newcomers into main once the small queue has its
tenth, and a ghost met again makes room for another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import NONE, Word

_GHOST = np.uint32(2**31)
_MOST = np.uint8(3)
_SMALL_FIRST, _SMALL, _MAIN_FIRST, _MAIN, _TURN, _SMALL_SIZE, _MAIN_SIZE = range(7)

State = tuple[
    NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32], NDArray[np.int64]
]


def make_state(capacity: int) -> State:
    """Return an empty cache: ids and hits by slot, the rings small, main and ghosts, and registers."""
    small = max(1, capacity // 10)
    main = capacity - small
    registers = np.array([0, 0, 0, 0, 0, small, main], dtype=np.int64)
    return (
        np.full(capacity, NONE),
        np.zeros(capacity, dtype=np.uint8),
        np.zeros(capacity, dtype=np.uint32),
        np.zeros(capacity, dtype=np.uint32),
        np.full(max(1, main), NONE),
        registers,
    )


@njit(inline="always")
def _append(ring: NDArray[np.uint32], registers: NDArray[np.int64], first: Word, slot: Word) -> None:
    at = registers[first] + registers[first + 1]
    if at >= ring.size:
        at -= ring.size
    ring[np.uint64(at)] = slot
    registers[first + 1] += 1


@njit(inline="always")
def _take(ring: NDArray[np.uint32], registers: NDArray[np.int64], first: Word) -> Word:
    slot = np.uint64(ring[np.uint64(registers[first])])
    registers[first] += 1
    if registers[first] == ring.size:
        registers[first] = 0
    registers[first + 1] -= 1
    return slot


@njit(inline="always")
def _make_ghost(where: NDArray[np.uint32], ghosts: NDArray[np.uint32], registers: NDArray[np.int64], key: Word) -> None:
    turn = np.uint64(registers[_TURN])
    old = ghosts[turn]
    if old != NONE and where[old] == (_GHOST | np.uint32(turn)):
        where[old] = NONE
    ghosts[turn] = key
    where[key] = _GHOST | np.uint32(turn)
    registers[_TURN] += 1
    if registers[_TURN] == ghosts.size:
        registers[_TURN] = 0


@njit(inline="always")
def _evict(
    where: NDArray[np.uint32],
    keys: NDArray[np.uint32],
    counts: NDArray[np.uint8],
    small: NDArray[np.uint32],
    main: NDArray[np.uint32],
    ghosts: NDArray[np.uint32],
    registers: NDArray[np.int64],
) -> Word:
    """Let one id go; return the slot that it leaves."""
    while True:
        if registers[_MAIN] > registers[_MAIN_SIZE] or registers[_SMALL] == 0:
            slot = _take(main, registers, _MAIN_FIRST)
            if counts[slot] == 0:
                where[keys[slot]] = NONE
                return slot
            counts[slot] -= np.uint8(1)
            _append(main, registers, _MAIN_FIRST, slot)
        else:
            slot = _take(small, registers, _SMALL_FIRST)
            if counts[slot] < 2:
                _make_ghost(where, ghosts, registers, keys[slot])
                return slot
            counts[slot] = 0
            _append(main, registers, _MAIN_FIRST, slot)


@njit
def access(
    where: NDArray[np.uint32],
    state: State,
    ids: NDArray[np.uint32],
    hits: NDArray[np.bool_] | None,
    victims: NDArray[np.uint32] | None,
) -> int:
    """Carry out accesses; see `kvsim.kernels.replay.contract`."""
    keys, counts, small, main, ghosts, registers = state
    misses = 0
    for at in range(np.uint64(ids.size)):
        key = ids[at]
        place = where[key]
        if place < _GHOST:
            counts[place] = min(counts[place] + np.uint8(1), _MOST)
            if hits is not None:
                hits[at] = True
            continue
        misses += 1
        victim = NONE
        used = registers[_SMALL] + registers[_MAIN]
        if used < keys.size:
            slot = np.uint64(used)
        else:
            slot = _evict(where, keys, counts, small, main, ghosts, registers)
            victim = keys[slot]
        if victims is not None:
            victims[at] = victim
        keys[slot] = key
        counts[slot] = 0
        where[key] = slot
        if place == NONE:
            _append(small, registers, _SMALL_FIRST, slot)
        else:
            _append(main, registers, _MAIN_FIRST, slot)
    return ids.size - misses
