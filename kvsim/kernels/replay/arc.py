"""ARC (Megiddo and Modha, FAST 2003): two LRU queues, of ids met once and again, and the ghosts of either.

The target of the first queue is a real number, as libCacheSim has it; the paper's is one too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import NONE, Word
from kvsim.kernels.replay.rings import first_of, join_last, leave, make_empty

_ONCE, _AGAIN, _ONCE_GHOST, _AGAIN_GHOST = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)
_USED = 4
_ONE = np.uint64(1)

State = tuple[NDArray[np.uint32], NDArray[np.uint8], NDArray[np.uint32], NDArray[np.int64], NDArray[np.float64]]


def make_state(capacity: int) -> State:
    """Return an empty cache: ids and queues by place, links, lengths of the queues and places in use, the target."""
    places = 2 * capacity
    links = np.zeros(2 * (places + 4), dtype=np.uint32)
    for queue in range(4):
        make_empty(links, np.uint64(places + queue))
    lengths = np.zeros(5, dtype=np.int64)
    return np.full(places, NONE), np.zeros(places, dtype=np.uint8), links, lengths, np.zeros(1)


@njit(inline="always")
def _replace(
    keys: NDArray[np.uint32],
    queues: NDArray[np.uint8],
    links: NDArray[np.uint32],
    lengths: NDArray[np.int64],
    target: NDArray[np.float64],
    is_again_ghost: bool,
) -> Word:
    """Make the oldest of one of the resident queues a ghost; return its place."""
    places = np.uint64(keys.size)
    once = lengths[_ONCE]
    if (once > 0 and (once > target[0] or (once == target[0] and is_again_ghost))) or lengths[_AGAIN] == 0:
        source = _ONCE
    else:
        source = _AGAIN
    ghosts = source + np.uint64(2)
    place = first_of(links, places + source)
    leave(links, place)
    join_last(links, places + ghosts, place)
    queues[place] = ghosts
    lengths[source] -= 1
    lengths[ghosts] += 1
    return place


@njit(inline="always")
def _drop(
    where: NDArray[np.uint32],
    keys: NDArray[np.uint32],
    links: NDArray[np.uint32],
    lengths: NDArray[np.int64],
    queue: Word,
) -> Word:
    """Forget the oldest of `queue`; return its place, which is free then."""
    place = first_of(links, np.uint64(keys.size) + queue)
    leave(links, place)
    lengths[queue] -= 1
    where[keys[place]] = NONE
    return place


@njit(inline="always")
def _let_in(
    where: NDArray[np.uint32],
    keys: NDArray[np.uint32],
    queues: NDArray[np.uint8],
    links: NDArray[np.uint32],
    lengths: NDArray[np.int64],
    target: NDArray[np.float64],
    capacity: int,
) -> tuple[Word, Word]:
    """Make room for an id that no queue knows; return its place and the victim."""
    if lengths[_ONCE] + lengths[_AGAIN] < capacity:
        lengths[_USED] += 1
        return np.uint64(lengths[_USED] - 1), NONE
    if lengths[_ONCE] + lengths[_ONCE_GHOST] >= capacity:
        if lengths[_ONCE_GHOST] == 0:
            place = _drop(where, keys, links, lengths, _ONCE)
            return place, keys[place]
        place = _drop(where, keys, links, lengths, _ONCE_GHOST)
    elif lengths[0] + lengths[1] + lengths[2] + lengths[3] >= 2 * capacity:
        place = _drop(where, keys, links, lengths, _AGAIN_GHOST)
    else:
        place = np.uint64(lengths[_USED])
        lengths[_USED] += 1
    return place, keys[_replace(keys, queues, links, lengths, target, False)]


@njit(inline="always")
def _revive(
    keys: NDArray[np.uint32],
    queues: NDArray[np.uint8],
    links: NDArray[np.uint32],
    lengths: NDArray[np.int64],
    target: NDArray[np.float64],
    place: Word,
    capacity: int,
) -> Word:
    """Take a ghost out of its queue and move the target its way; return the victim."""
    queue = queues[place]
    once, again = lengths[_ONCE_GHOST], lengths[_AGAIN_GHOST]
    if queue == _ONCE_GHOST:
        target[0] = min(target[0] + max(again / once, 1.0), np.float64(capacity))
    else:
        target[0] = max(target[0] - max(once / again, 1.0), 0.0)
    leave(links, place)
    lengths[queue] -= 1
    return keys[_replace(keys, queues, links, lengths, target, queue == _AGAIN_GHOST)]


@njit
def access(
    where: NDArray[np.uint32],
    state: State,
    ids: NDArray[np.uint32],
    hits: NDArray[np.bool_] | None,
    victims: NDArray[np.uint32] | None,
) -> int:
    """Carry out accesses; see `kvsim.kernels.replay.contract`."""
    keys, queues, links, lengths, target = state
    places = np.uint64(keys.size)
    capacity = keys.size >> 1
    misses = 0
    for at in range(np.uint64(ids.size)):
        key = ids[at]
        place = np.uint64(where[key])
        if place == NONE:
            misses += 1
            place, victim = _let_in(where, keys, queues, links, lengths, target, capacity)
            where[key] = place
            keys[place] = key
            queue = _ONCE
        else:
            queue = _AGAIN
            old = np.uint64(queues[place])
            if old <= _AGAIN:
                if hits is not None:
                    hits[at] = True
                leave(links, place)
                join_last(links, places + _AGAIN, place)
                if old == _ONCE:
                    lengths[_ONCE] -= 1
                    lengths[_AGAIN] += 1
                    queues[place] = _AGAIN
                continue
            misses += 1
            victim = _revive(keys, queues, links, lengths, target, place, capacity)
        if victims is not None:
            victims[at] = victim
        join_last(links, places + queue, place)
        queues[place] = queue
        lengths[queue] += 1
    return ids.size - misses
