"""Parts of whole steps that no other test sees alone: sorting in place, and the table of a run's arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.kernels.arrays import compiled, int_rows, ints
from kvsim.kernels.step import layout
from kvsim.kernels.step.step import _sort
from kvsim.sim.run_arrays import RunArrays


@given(pages=st.lists(st.integers(0, 2**40), max_size=90))
def test_pages_are_sorted_where_they_lie_few_or_many(pages: list[int]) -> None:
    array = np.array(pages, dtype=np.int64)
    _sort(array)
    assert array.tolist() == sorted(pages)


@compiled
def sums(run):
    total = 0
    for value in ints(run, layout.COUNTS):
        total += value
    rows = int_rows(run, layout.PAGES)
    return total, rows[1, 2], rows.shape[0], rows.shape[1]


def test_a_kernel_reads_the_arrays_of_a_run_by_name() -> None:
    arrays = RunArrays()
    arrays[layout.COUNTS] = np.array([1, 2, 3], dtype=np.int64)
    arrays[layout.PAGES] = np.arange(8, dtype=np.int64).reshape(2, 4)
    assert sums(arrays.address) == (6, 6, 2, 4)
    arrays[layout.COUNTS] = np.array([9], dtype=np.int64)
    assert sums(arrays.address)[0] == 9


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros(3, dtype=np.int32), np.zeros((2, 2, 2), dtype=np.int64), np.arange(6)[::2]]
)
def test_an_array_that_a_kernel_would_misread_is_refused(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"of int64|in one piece"):
        RunArrays()[layout.COUNTS] = array
