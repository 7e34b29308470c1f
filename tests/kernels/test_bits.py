"""The two machine instructions against Python's integers."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from kvsim.kernels.bits import highest_bit, lowest_bit


@numba.njit
def ends(word):
    return lowest_bit(word), highest_bit(word)


@pytest.mark.parametrize("word", [1, 2, 3, 0b1010_0000, 2**63, 2**64 - 1, 2**40 + 2**7])
def test_the_lowest_and_the_highest_bit_are_found(word: int) -> None:
    assert ends(np.uint64(word)) == ((word & -word).bit_length() - 1, word.bit_length() - 1)
