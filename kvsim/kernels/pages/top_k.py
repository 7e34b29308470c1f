"""The compiled choice of `kvsim.policies.selectors.TopK` from scores in float16."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit

Ints: TypeAlias = NDArray[np.int64]
Bits: TypeAlias = NDArray[np.uint16]


@njit
def top_k(bits: Bits, first: int, last: int, k_pages: int, num_pages: int) -> Ints:
    """Return all pages before `first` and from `last` on, and the `k_pages` best between, ascending.

    `bits` are those of scores in float16 that are not negative, which are ordered as their numbers; of equal ones the
    first is better.
    """
    count = min(k_pages, last - first)
    chosen = np.empty(first + count + num_pages - last, dtype=np.int64)
    for page in range(first):
        chosen[page] = page
    size = first
    if count:
        middle = bits[first:last]
        bar = np.partition(middle, middle.size - count)[middle.size - count]
        num_ties = count
        for score in middle:
            num_ties -= score > bar
        for page in range(first, last):
            if bits[page] > bar or (bits[page] == bar and num_ties > 0):
                num_ties -= bits[page] == bar
                chosen[size] = page
                size += 1
    for page in range(last, num_pages):
        chosen[size] = page
        size += 1
    return chosen
