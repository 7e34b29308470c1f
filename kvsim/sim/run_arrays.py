"""The table of a run's arrays, which kernels are given in their place (`kvsim.kernels.arrays`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.arrays import ArrayTable
from kvsim.kernels.step import layout

_DTYPES: dict[int, Any] = {
    **dict.fromkeys((layout.CLOCK, layout.DONE, layout.WORKS, layout.TABLES), np.float64),
    **dict.fromkeys((layout.CARRIED_S, layout.TIMES), np.float64),
    **dict.fromkeys((layout.FLAGS, layout.WAS_EVICTABLE), np.bool_),
    layout.LINKS: np.uint32,
    **dict.fromkeys((layout.READ_BITS, layout.LOST_BITS), np.uint64),
}
"""What arrays consist of that are not of int64."""


class RunArrays(ArrayTable):
    """Arrays by the names of `kvsim.kernels.step.layout`, each of the type that it must have."""

    def __init__(self) -> None:
        super().__init__(layout.NUM_ARRAYS)

    def __setitem__(self, name: int, array: NDArray[Any]) -> None:
        expected = _DTYPES.get(name, np.int64)
        if array.dtype != expected:
            raise TypeError(f"array {name} of a run should be of {expected.__name__}, is of {array.dtype}")
        super().__setitem__(name, array)
