"""Costs inside a compiled run against the tables of a profile, to the last digit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.kernels.step.costs import at_s
from kvsim.profile.tables import CostTable
from kvsim.sim.fast_path import _packed

TIMES = st.floats(0, 1e-2)
GRIDS = st.lists(st.integers(0, 400), min_size=1, max_size=5, unique=True).map(sorted)


@settings(max_examples=200)
@given(data=st.data(), amounts=GRIDS, sequences=GRIDS, amount=st.floats(0, 600), batch=st.floats(0, 600))
def test_a_table_is_interpolated_as_the_profile_interpolates_it(
    data: st.DataObject, amounts: list[int], sequences: list[int], amount: float, batch: float
) -> None:
    rows = [tuple(data.draw(TIMES) for _ in sequences) for _ in amounts]
    table = CostTable(
        amount="pages",
        amounts=tuple(map(float, amounts)),
        columns_are="sequences",
        columns=tuple(map(float, sequences)),
        time_s=tuple(rows),
    )
    tables = np.array([0.0, *_packed(table, {"sequences": batch})])
    for asked in (amount, float(amounts[0]), float(amounts[-1])):
        assert at_s(tables, 1, asked) == table.at_s(asked, sequences=batch)


def test_no_table_costs_nothing() -> None:
    assert at_s(np.array([0.0]), 0, 5.0) == 0.0
