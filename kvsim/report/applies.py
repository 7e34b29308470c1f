"""Figures that may not apply: None in place of a mean of nothing, a ratio over nothing, and what nobody knows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ratio(part: float, whole: float) -> float | None:
    """Return part over whole; None over nothing, and where either is not a number.

    Examples
    --------
    >>> ratio(1, 4), ratio(1, 0), ratio(float("nan"), 4)
    (0.25, None, None)
    """
    return known(part / whole) if whole else None


def mean(values: NDArray[Any]) -> float | None:
    """Return the mean; None of no values, and where one is not a number."""
    return known(float(values.mean())) if values.size else None


def quantile(values: NDArray[Any], share: float) -> float | None:
    """Return a quantile; None as of `mean`."""
    return known(float(np.quantile(values, share))) if values.size else None


def known(value: float) -> float | None:
    """Return a value, None where it is not a number."""
    return float(value) if np.isfinite(value) else None
