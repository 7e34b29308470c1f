"""How many distinct ids lie between two accesses of one: Mattson's stack distances, with a Fenwick tree over time.

Mattson, Gecsei, Slutz and Traiger, "Evaluation techniques for storage hierarchies" (IBM Systems Journal 9(2), 1970);
the tree counts last accesses by time (Bennett and Kruskal, 1975), and is renumbered when its time is used up, so its
size follows the number of ids and not the trace's length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import NONE, Word


@njit
def _renumber(last: NDArray[np.uint32], owner: NDArray[np.uint32], tree: NDArray[np.int32]) -> Word:
    """Move the last accesses to the beginning of time, in order; return the next time."""
    now = np.uint64(0)
    for time in range(np.uint64(owner.size)):
        key = owner[time]
        if last[key] == time:
            owner[now] = key
            last[key] = now
            now += np.uint64(1)
    for place in range(1, tree.size):
        low = place & -place
        before = np.uint64(place - low)
        tree[place] = min(np.uint64(low), now - before) if before < now else 0
    return now


@njit
def count_distances(ids: NDArray[np.uint32], num_ids: int, entries: int) -> NDArray[np.int64]:
    """Return how many accesses have each stack distance, ``[num_ids + 1]``; distance 0 counts the first of each id.

    Distance `d` says that `d` distinct ids, its own included, were accessed since: LRU hits from a capacity of `d` on.
    `entries` is the number of times before renumbering, a power of two above `num_ids`.
    """
    counts = np.zeros(num_ids + 1, dtype=np.int64)
    last = np.full(num_ids, NONE, dtype=np.uint32)
    owner = np.zeros(entries, dtype=np.uint32)
    tree = np.zeros(entries + 1, dtype=np.int32)
    now = np.uint64(0)
    present = 0
    for at in range(np.uint64(ids.size)):
        if now == np.uint64(entries):
            now = _renumber(last, owner, tree)
        key = ids[at]
        before = last[key]
        if before == NONE:
            counts[0] += 1
            present += 1
        else:
            place = np.int64(before) + 1
            newer = present
            down = np.int64(before)
            while down > 0:
                newer -= tree[np.uint64(down)]
                down &= down - 1
            counts[np.uint64(newer)] += 1
            while place <= entries:
                tree[np.uint64(place)] -= 1
                place += place & -place
        place = np.int64(now) + 1
        while place <= entries:
            tree[np.uint64(place)] += 1
            place += place & -place
        last[key] = now
        owner[now] = key
        now += np.uint64(1)
    return counts
