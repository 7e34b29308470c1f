"""What rows cost is timed where it is spent: a part made slower shows in its own table and in no other."""

from __future__ import annotations

import dataclasses
import time

import pytest

torch = pytest.importorskip("torch")

from kvsim.caches.rows import RowCacheState  # noqa: E402
from kvsim.calibration.plan import QUICK  # noqa: E402
from kvsim.experiments.embedding_rows.calibrate import row_tables  # noqa: E402
from kvsim.experiments.embedding_rows.clock import COSTS  # noqa: E402
from kvsim.experiments.embedding_rows.engine.cache import RowCache  # noqa: E402
from kvsim.experiments.embedding_rows.engine.link import EmulatedRowLink  # noqa: E402
from kvsim.scenario.shapes import SHAPES  # noqa: E402

PLAN = dataclasses.replace(QUICK, row_counts=(2, 9), row_bytes=(64, 256), row_cap_s=0.0, row_table_bytes=2**18)
SLOWER_S = 20e-3


def tables(bandwidth_bytes_per_s: float = 1e9):
    stages = []

    def make_advance(name, total):
        stages.append((name, total))
        return lambda done: stages.append(done)

    found = row_tables(
        SHAPES["smollm2-135m"],
        PLAN,
        device="cpu",
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        make_advance=make_advance,
    )
    assert stages == [("embedding rows", 4), 1, 1, 1, 1]
    return found


def test_every_cost_of_a_simulation_has_a_table_over_rows_and_their_bytes() -> None:
    found = tables()
    assert set(found) == set(COSTS)
    for table in found.values():
        assert (table.amount, table.columns_are) == ("rows", "row_bytes")
        assert (table.amounts, table.columns) == ((2.0, 9.0), (64.0, 256.0))
        assert table.num_samples >= 4 * 4


def test_a_copy_takes_at_least_what_the_link_is_held_to() -> None:
    copies = tables(bandwidth_bytes_per_s=1e5)["rows.copy"]
    for row, row_times_s in zip(copies.amounts, copies.time_s, strict=True):
        for row_bytes, time_s in zip(copies.columns, row_times_s, strict=True):
            assert time_s >= row * row_bytes / 1e5


@pytest.mark.parametrize(
    ("owner", "name", "shows_in"),
    [
        (RowCacheState, "look_up", {"rows.look-up", "rows.accounting"}),
        (RowCacheState, "fetch_ahead", {"rows.touch", "rows.ahead"}),
        (RowCache, "gather", {"rows.gather", "rows.ahead"}),
        (EmulatedRowLink, "load", {"rows.copy"}),
        (RowCache, "insert", {"rows.merge", "rows.settle"}),
    ],
)
def test_what_is_made_slower_shows_in_its_own_tables(monkeypatch, owner, name, shows_in) -> None:
    slow = getattr(owner, name)

    def delayed(*args, **kwargs):
        time.sleep(SLOWER_S)
        return slow(*args, **kwargs)

    monkeypatch.setattr(owner, name, delayed)
    found = tables()
    for table_name, table in found.items():
        assert (min(table.time_s[0]) >= SLOWER_S) == (table_name in shows_in), (table_name, table.time_s)
