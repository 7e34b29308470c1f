"""The range of every figure, by the unit in its name: no time, size, count or share of a result may leave it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIGNED = frozenset({"arrival", "difference", "error", "gain", "gains", "overhead", "saved"})
"""Words of a name whose figure is a difference or a moment, and may be negative."""
_ABOVE_ONE = frozenset({"load", "slowdown", "vs"})
"""Words of a name whose ``_frac`` is a ratio and not a part of a whole."""
_NOT_NEGATIVE = ("_s", "_bytes", "_tokens", "_pages", "_blocks", "_rows", "_modules", "_steps", "_token", "_hits")
_COUNTS = frozenset(
    {"demoted", "evicted", "evictions", "hits", "late", "misses", "prefetched", "tokens", "used", "wasted"}
)
_ROUNDING = 1e-6
"""Of a share that was summed in single precision."""


class RangeError(Exception):
    """A figure has a value that its name rules out: an error of kvsim, not of what it was given."""

    def __init__(self, name: str, value: object, rule: str) -> None:
        self.figure = f"{name} is {value}: {rule}"
        super().__init__(f"{self.figure}. This is an error in kvsim; please report it")


def check_ranges(summary: Mapping[str, Any], rows: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a result in which a figure has a value that its unit rules out.

    Times, sizes, counts, rates and speeds are finite and not negative; a share (``_frac``) lies between 0 and 1. What
    a name calls an error, a difference, a gain or saved has a sign, a load or a slowdown has no upper end. A figure
    that does not apply is None in a summary and may be nan in `rows`, where nobody knows it.

    Raises
    ------
    RangeError
        Naming the first such figure and where it is.

    Examples
    --------
    >>> check_ranges({"cells": [{"policy": "lru", "hit_frac": 1.0, "ttft_saved_frac": -0.5}]}, {})
    >>> check_ranges({"cells": [{"policy": "lru", "tpot_mean_s": -0.1}]}, {})
    Traceback (most recent call last):
    ...
    kvsim.report.ranges.RangeError: cells[0].tpot_mean_s is -0.1: ...
    """
    for path, name, value in _numbers(summary, "", ""):
        rule = _broken_rule(name, value, value)
        if rule or math.isnan(value):
            raise RangeError(path, value, rule or "a figure that does not apply is None")
    for name, column in rows.items():
        if column.dtype.kind not in "iuf" or not column.size:
            continue
        known = column[~np.isnan(column)] if column.dtype.kind == "f" else column
        if known.size:
            low, high = float(known.min()), float(known.max())
            rule = _broken_rule(name, low, high)
            if rule:
                raise RangeError(f"a row's {name}", f"{low} to {high}", rule)


def _numbers(value: Any, path: str, name: str) -> Iterator[tuple[str, str, float]]:
    """Yield (path, the name that says the unit, value) of every number."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{path}.{key}" if path else str(key), str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _numbers(inner, f"{path}[{number}]", name)
    elif isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        yield path, name, float(value)


def _broken_rule(name: str, low: float, high: float) -> str | None:
    """Return the rule that a figure's least and greatest value break; None where they keep all."""
    last = name.rpartition(".")[2]
    words = set(last.split("_"))
    if math.isinf(low) or math.isinf(high):
        return "no figure is infinite"
    if words & _SIGNED:
        return None
    if last.endswith("_frac"):
        if low < -_ROUNDING or (high > 1 + _ROUNDING and not words & _ABOVE_ONE):
            return "a share lies between 0 and 1"
    elif (last.endswith(_NOT_NEGATIVE) or last in _COUNTS or words & {"num", "speed", "speedup"}) and low < 0:
        return "a time, a size, a count or a speed is not negative"
    return None
