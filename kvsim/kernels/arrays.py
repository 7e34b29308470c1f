"""A run's arrays behind one number, so that no call pays for them.

Numba unpacks every array that it is handed and counts who holds it, at each call, slice and view: for a run of twenty
arrays that cost more than half of all its time. So a run is the address of a table with a line an array
(`step.layout` names them): where it is, its rows, its columns. Functions fetch what they need by name. Nothing
compiled keeps an array alive: `ArrayTable` does, for as long as its owner keeps the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from kvsim.kernels.cached import njit

compiled: Any = njit(error_model="numpy", _nrt=False)
"""Compile without reference counting: what is compiled so makes no array and keeps none. It divides by no zero."""

ADDRESS, NUM_ROWS, NUM_COLUMNS = range(3)
"""What stands in a line of the table."""

_WORD = ir.IntType(64)


def _fetch(item: Any, num_axes: int) -> Callable[..., Any]:
    """Return how numba makes an array of `item` with one axis (the columns) or two from a line of the table."""

    def typed(_typing_context: Any, _run: Any, _name: Any) -> Any:
        array_type = types.Array(item, num_axes, "C")

        def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            from numba.np.arrayobj import populate_array  # noqa: PLC0415  # half of numba: for who compiles only

            table = builder.inttoptr(arguments[0], _WORD.as_pointer())
            first = builder.mul(arguments[1], _WORD(3))
            line = [builder.load(builder.gep(table, [builder.add(first, _WORD(place))])) for place in range(3)]
            item_bytes = context.get_abi_sizeof(context.get_data_type(item))
            strides = [_WORD(item_bytes)]
            if num_axes == 2:
                strides = [builder.mul(line[NUM_COLUMNS], _WORD(item_bytes)), *strides]
            made = context.make_array(array_type)(context, builder)
            populate_array(
                made,
                data=builder.inttoptr(line[ADDRESS], made.data.type),
                shape=cgutils.pack_array(builder, line[-num_axes:]),
                strides=cgutils.pack_array(builder, strides),
                itemsize=_WORD(item_bytes),
                meminfo=None,
            )
            return made._getvalue()

        return array_type(types.int64, types.int64), build

    return typed


ints: Any = intrinsic(_fetch(types.int64, 1))
"""Return whole numbers, ``[columns]``: ``ints(run, name)``."""
int_rows: Any = intrinsic(_fetch(types.int64, 2))
"""Return whole numbers, ``[rows, columns]``."""
floats: Any = intrinsic(_fetch(types.float64, 1))
"""Return floats, ``[columns]``."""
float_rows: Any = intrinsic(_fetch(types.float64, 2))
"""Return floats, ``[rows, columns]``."""
small_rows: Any = intrinsic(_fetch(types.uint32, 2))
"""Return unsigned whole numbers of 32 bits, ``[rows, columns]``."""
word_rows: Any = intrinsic(_fetch(types.uint64, 2))
"""Return unsigned whole numbers, ``[rows, columns]``."""
masks: Any = intrinsic(_fetch(types.boolean, 2))
"""Return truth values, ``[rows, columns]``."""


class ArrayTable:
    """Arrays by name, kept alive, and the address by which kernels find them."""

    def __init__(self, num_arrays: int, arrays: Mapping[int, NDArray[Any]] | None = None) -> None:
        self._table = np.zeros((num_arrays, 3), dtype=np.int64)
        self._arrays: dict[int, NDArray[Any]] = {}
        self.address = int(self._table.ctypes.data)
        for name, array in (arrays or {}).items():
            self[name] = array

    def __setitem__(self, name: int, array: NDArray[Any]) -> None:
        if array.ndim > 2 or not array.flags.c_contiguous:
            raise TypeError(f"array {name} should have two axes at most, in one piece")
        self._arrays[name] = array
        line = self._table[name]
        line[ADDRESS], line[NUM_COLUMNS] = array.ctypes.data, array.shape[-1]
        line[NUM_ROWS] = array.shape[0] if array.ndim == 2 else 1

    def __getitem__(self, name: int) -> NDArray[Any]:
        return self._arrays[name]
