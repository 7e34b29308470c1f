"""The table of a run's arrays, which kernels are given in their place (`kvsim.kernels.arrays`): it keeps them alive."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.arrays import ADDRESS, NUM_COLUMNS, NUM_ROWS
from kvsim.kernels.step import layout
from kvsim.types import IntArray

_DTYPES: dict[int, Any] = {
    **dict.fromkeys((layout.CLOCK, layout.DONE, layout.WORKS, layout.TABLES), np.float64),
    **dict.fromkeys((layout.CARRIED_S, layout.TIMES), np.float64),
    **dict.fromkeys((layout.FLAGS, layout.WAS_EVICTABLE), np.bool_),
    layout.LINKS: np.uint32,
    **dict.fromkeys((layout.READ_BITS, layout.LOST_BITS), np.uint64),
}
"""What arrays consist of that are not of int64."""


class RunArrays:
    """Arrays by the names of `kvsim.kernels.step.layout`, and the address by which kernels find them."""

    def __init__(self) -> None:
        self._table: IntArray = np.zeros((layout.NUM_ARRAYS, 3), dtype=np.int64)
        self._arrays: dict[int, NDArray[Any]] = {}
        self.address = int(self._table.ctypes.data)

    def __setitem__(self, name: int, array: NDArray[Any]) -> None:
        expected = _DTYPES.get(name, np.int64)
        if array.dtype != expected or array.ndim > 2 or not array.flags.c_contiguous:
            raise TypeError(f"array {name} of a run: {expected.__name__} in one piece, found {array.dtype}")
        self._arrays[name] = array
        line = self._table[name]
        line[ADDRESS], line[NUM_COLUMNS] = array.ctypes.data, array.shape[-1]
        line[NUM_ROWS] = array.shape[0] if array.ndim == 2 else 1

    def __getitem__(self, name: int) -> NDArray[Any]:
        return self._arrays[name]
