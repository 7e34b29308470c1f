"""Dense ids for 64-bit keys, in order of first appearance, by open addressing with a multiplicative hash.

Ids in that order keep what is accessed often close together: keys that come early are mostly the frequent ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import Word

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONE = np.uint64(1)


@njit
def densify(
    keys: NDArray[np.int64],
    start: Word,
    table: NDArray[np.int64],
    names: NDArray[np.uint32],
    key_of: NDArray[np.int64],
    count: NDArray[np.int64],
    ids: NDArray[np.uint32],
) -> Word:
    """Write the ids of ``keys[start:]`` until all are written or the table is half full; return where it stopped.

    Parameters
    ----------
    keys, ids
        ``[n]``; the keys, and where their ids go.
    start
        The first key that has no id yet.
    table, names
        A power of two of places: the key in each, and its id plus one, 0 where the place is empty.
    key_of
        The key of each id given; half as long as the table.
    count
        ``[1]``, ids given so far.
    """
    places = np.uint64(table.size)
    shift = np.uint64(64)
    reach = _ONE
    while reach < places:
        reach <<= _ONE
        shift -= _ONE
    num_ids = np.uint64(count[0])
    end: Word = np.uint64(keys.size)
    for at in range(np.uint64(start), end):
        key = keys[at]
        place = (np.uint64(key) * _GOLDEN) >> shift
        while names[place] != 0 and table[place] != key:
            place = (place + _ONE) & (places - _ONE)
        if names[place] == 0:
            if num_ids + num_ids >= places:
                end = at
                break
            table[place] = key
            key_of[num_ids] = key
            num_ids += _ONE
            names[place] = num_ids
        ids[at] = names[place] - np.uint32(1)
    count[0] = num_ids
    return end
