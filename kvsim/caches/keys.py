"""Keys of 64 bits into dense ids, and back: what the kernels count by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import CapacityError
from kvsim.kernels.replay.contract import MAX_IDS
from kvsim.kernels.replay.densify import densify
from kvsim.types import IntArray

_FIRST_PLACES = 2**12


class KeyTable:
    """Gives keys dense ids in order of first appearance, and never forgets one: 32 to 128 bytes a distinct key.

    Examples
    --------
    >>> table = KeyTable()
    >>> table.ids_of(np.array([700, -3, 700]))
    array([0, 1, 0], dtype=uint32)
    >>> table.keys
    array([700,  -3])
    """

    def __init__(self) -> None:
        self._table = np.zeros(_FIRST_PLACES, dtype=np.int64)
        self._names = np.zeros(_FIRST_PLACES, dtype=np.uint32)
        self._key_of = np.zeros(_FIRST_PLACES // 2, dtype=np.int64)
        self._count = np.zeros(1, dtype=np.int64)

    @property
    def num_ids(self) -> int:
        """Distinct keys so far."""
        return int(self._count[0])

    @property
    def keys(self) -> IntArray:
        """The key of each id, ``[num_ids]``."""
        return self._key_of[: self.num_ids]

    def ids_of(self, keys: IntArray) -> NDArray[np.uint32]:
        """Return the id of each key, new ones for new keys."""
        ids = np.empty(keys.size, dtype=np.uint32)
        done = 0
        while True:
            done = int(densify(keys, done, self._table, self._names, self._key_of, self._count, ids))
            if done == keys.size:
                return ids
            self._grow()

    def _grow(self) -> None:
        if 4 * self.num_ids > MAX_IDS:
            raise CapacityError(f"{self.num_ids:,} distinct keys: at most {MAX_IDS // 4:,} can be distinguished")
        keys = self.keys
        self._table = np.zeros(4 * self._table.size, dtype=np.int64)
        self._names = np.zeros(self._table.size, dtype=np.uint32)
        self._key_of = np.zeros(self._table.size // 2, dtype=np.int64)
        self._count[0] = 0
        densify(keys, 0, self._table, self._names, self._key_of, self._count, np.empty(keys.size, dtype=np.uint32))
