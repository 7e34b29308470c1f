"""Where the lowest and the highest set bit of a word lie: one machine instruction each, which numba has no name for."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic


def _lowest_bit(_typing_context: Any, _word: Any) -> Any:
    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, True))

    return types.uint64(types.uint64), build


def _highest_bit(_typing_context: Any, _word: Any) -> Any:
    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        zeros = builder.ctlz(arguments[0], context.get_constant(types.boolean, True))
        return builder.sub(context.get_constant(types.uint64, 63), zeros)

    return types.uint64(types.uint64), build


lowest_bit: Any = intrinsic(_lowest_bit)
"""Return the place of the lowest set bit of a uint64 that is not 0."""

highest_bit: Any = intrinsic(_highest_bit)
"""Return the place of the highest set bit of a uint64 that is not 0."""
