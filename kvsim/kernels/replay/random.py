"""Random eviction, drawn by splitmix64 (Steele, Lea and Flood, OOPSLA 2014) from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import NONE

_STEP, _MIX, _REMIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)

State = tuple[NDArray[np.uint32], NDArray[np.uint64]]


def make_state(capacity: int, *, seed: int = 0) -> State:
    """Return an empty cache: the ids by slot, and registers: slots in use, and the generator's state."""
    return np.full(capacity, NONE), np.array([0, seed], dtype=np.uint64)


@njit
def access(
    where: NDArray[np.uint32],
    state: State,
    ids: NDArray[np.uint32],
    hits: NDArray[np.bool_] | None,
    victims: NDArray[np.uint32] | None,
) -> int:
    """Carry out accesses; see `kvsim.kernels.replay.contract`."""
    keys, registers = state
    used, drawn = registers[0], registers[1]
    capacity = np.uint64(keys.size)
    misses = 0
    for at in range(np.uint64(ids.size)):
        key = ids[at]
        if where[key] != NONE:
            if hits is not None:
                hits[at] = True
            continue
        misses += 1
        if used < capacity:
            slot = used
            used += np.uint64(1)
        else:
            drawn += _STEP
            mixed = (drawn ^ (drawn >> np.uint64(30))) * _MIX
            mixed = (mixed ^ (mixed >> np.uint64(27))) * _REMIX
            slot = (mixed ^ (mixed >> np.uint64(31))) % capacity
        victim = keys[slot]
        if victim != NONE:
            where[victim] = NONE
        if victims is not None:
            victims[at] = victim
        keys[slot] = key
        where[key] = slot
    registers[0], registers[1] = used, drawn
    return ids.size - misses
