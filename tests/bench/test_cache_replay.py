"""The benchmark of cache replay runs at a small size; beside libCacheSim its hits agree."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from kvsim.caches import CACHE_POLICIES
from tests.scripts import load_script


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_script("bench/cache_replay.py")


@pytest.fixture(scope="module")
def report(bench: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = bench.run(20_000, 1)
    return found


def test_every_policy_has_a_row_on_both_traces(bench: ModuleType, report: dict[str, Any]) -> None:
    rows = {(row["trace"], row["policy"]): row for row in report["rows"]}
    assert set(rows) == {(trace, policy) for trace in ("zipf", "page") for policy in CACHE_POLICIES}
    assert all(0 < row["hits"] < row["accesses"] and row["accesses_per_s"] > 0 for row in rows.values())
    kept = [name for name, policy in CACHE_POLICIES.items() if policy.kind == "eviction"]
    assert all(
        rows[trace, name]["hits"] <= rows[trace, "belady"]["hits"] for trace in ("zipf", "page") for name in kept
    )
    assert len(bench.table_text(report["rows"]).splitlines()) == len(rows) + 1


def test_hits_are_those_of_libcachesim(report: dict[str, Any]) -> None:
    pytest.importorskip("libcachesim", reason="libcachesim is installed for the benchmark only")
    assert report["unequal_hits"] == []
    assert set(report["ratio"]) == {"zipf", "page"}


def test_the_page_trace_keeps_what_it_says(bench: ModuleType) -> None:
    steps = bench.page_trace(240 * 200).reshape(200, 30, 8)
    assert (steps // 64 == [[layer] * 8 for layer in range(30)]).all()
    kept = [len(set(a) & set(b)) / 8 for a, b in zip(steps[:-1].reshape(-1, 8), steps[1:].reshape(-1, 8), strict=True)]
    assert sum(kept) / len(kept) == pytest.approx(0.85, abs=0.01)
