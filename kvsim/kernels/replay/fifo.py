"""FIFO: whoever came first leaves first. A ring of ids and a hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import NONE

State = tuple[NDArray[np.uint32], NDArray[np.int64]]


def make_state(capacity: int) -> State:
    """Return an empty cache: the ids by slot, and the slot whose turn it is."""
    return np.full(capacity, NONE), np.zeros(1, dtype=np.int64)


@njit
def access(
    where: NDArray[np.uint32],
    state: State,
    ids: NDArray[np.uint32],
    hits: NDArray[np.bool_] | None,
    victims: NDArray[np.uint32] | None,
) -> int:
    """Carry out accesses; see `kvsim.kernels.replay.contract`."""
    ring, registers = state
    hand = np.uint64(registers[0])
    misses = 0
    for at in range(np.uint64(ids.size)):
        key = ids[at]
        if where[key] != NONE:
            if hits is not None:
                hits[at] = True
            continue
        misses += 1
        victim = ring[hand]
        if victim != NONE:
            where[victim] = NONE
        if victims is not None:
            victims[at] = victim
        ring[hand] = key
        where[key] = hand
        hand += np.uint64(1)
        if hand == np.uint64(ring.size):
            hand = np.uint64(0)
    registers[0] = hand
    return ids.size - misses
