"""A deep copy of a run: `copy.deepcopy` with arrays that share memory sharing it again, as views and their bases do."""

from __future__ import annotations

import copy
import gc
import types
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

T = TypeVar("T")

_NOT_ENTERED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, torch.Tensor, torch.nn.Module)
"""What is copied by reference, or as a whole by torch: nothing in it shares memory with an array of the run."""


def copy_whole(value: T, memo: dict[int, Any]) -> T:
    """Return a deep copy of `value`; objects whose id is in `memo` are taken from there, as `copy.deepcopy` does.

    Examples
    --------
    >>> rows = np.zeros((2, 3))
    >>> run = copy_whole({"rows": rows, "second": rows[1]}, {})
    >>> run["second"][:] = 1
    >>> float(run["rows"].sum()), float(rows.sum())
    (3.0, 0.0)
    """
    owners: dict[int, NDArray[Any]] = {}
    for array in list(_arrays_below(value, memo)):
        copied = _with_owner(array, owners)
        if copied is not None:
            memo[id(array)] = copied
    return copy.deepcopy(value, memo)


def _arrays_below(value: Any, memo: dict[int, Any]) -> Iterator[NDArray[Any]]:
    """Yield every array that is reachable from `value`, once."""
    seen, waiting = set(memo), [value]
    while waiting:
        reached = waiting.pop()
        if id(reached) in seen or isinstance(reached, _NOT_ENTERED):
            continue
        seen.add(id(reached))
        if isinstance(reached, np.ndarray):
            yield reached
        else:
            waiting += gc.get_referents(reached)


def _with_owner(array: NDArray[Any], owners: dict[int, NDArray[Any]]) -> NDArray[Any] | None:
    """Return a copy of an array inside the one copy of what owns its memory; None where `copy.deepcopy` will do."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    if owner.base is not None or owner.dtype.hasobject or not owner.flags.c_contiguous:
        return None
    if id(owner) not in owners:
        owners[id(owner)] = owner.copy()
    copied = owners[id(owner)]
    if array is not owner:
        offset_bytes = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        copied = np.ndarray(array.shape, array.dtype, buffer=copied.data, offset=offset_bytes, strides=array.strides)
    copied.flags.writeable = array.flags.writeable
    return copied
