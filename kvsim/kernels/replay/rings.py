"""Doubly linked rings in one array: places join, leave and follow one another in constant time.

``links[2 * place]`` is the next place and ``links[2 * place + 1]`` the one before. A ring begins and ends at a place of
its own that holds nothing; an empty ring is that place linked to itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvsim.kernels.cached import njit
from kvsim.kernels.replay.contract import Word

_ONE = np.uint64(1)


@njit(inline="always")
def make_empty(links: NDArray[np.uint32], ring: Word) -> None:
    """Link `ring` to itself."""
    links[ring << _ONE] = ring
    links[(ring << _ONE) + _ONE] = ring


@njit(inline="always")
def leave(links: NDArray[np.uint32], place: Word) -> None:
    """Take `place` out of whatever ring it is in."""
    after = np.uint64(links[place << _ONE])
    before = np.uint64(links[(place << _ONE) + _ONE])
    links[before << _ONE] = after
    links[(after << _ONE) + _ONE] = before


@njit(inline="always")
def join_last(links: NDArray[np.uint32], ring: Word, place: Word) -> None:
    """Put `place` at the end of `ring`."""
    last = np.uint64(links[(ring << _ONE) + _ONE])
    links[last << _ONE] = place
    links[(place << _ONE) + _ONE] = last
    links[place << _ONE] = ring
    links[(ring << _ONE) + _ONE] = place


@njit(inline="always")
def first_of(links: NDArray[np.uint32], ring: Word) -> Word:
    """Return the place after the ring's own: the one longest in it, or the ring itself where it is empty."""
    return np.uint64(links[ring << _ONE])
