"""Times what a cache of embedding rows costs: look-ups, books, gathers on the host, copies, and putting rows in."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from kvsim.caches.rows import RowBooks
from kvsim.calibrate.fit import Sample, fit_table
from kvsim.calibrate.plan import Plan
from kvsim.engine.row_cache import CachedEmbedding, RowCache
from kvsim.engine.row_link import make_row_link
from kvsim.hardware import CostTable
from kvsim.types import FloatArray, IntArray

_TABLE_BYTES = 128 * 2**20
"""Of each table: beyond what processors cache, so that a row is fetched from memory as it is from a large table."""

_SWEPT_BYTES = 64 * 2**20
"""Read before each timed part. Between one look-up and the next a model's weights pass through the processor, so that
nothing of an embedding's code and books is at hand: measured back to back they cost a quarter."""

_MIN_REPEATS, _MAX_REPEATS = 5, 11


def row_tables(
    plan: Plan,
    *,
    device: str,
    bandwidth_bytes_per_s: float | None,
    make_advance: Callable[[str, int], Callable[[int], None]],
) -> dict[str, CostTable]:
    """Return the tables ``rows.*`` of `Profile.caches`: seconds over rows (`amounts`) x bytes of a row (`batches`).

    ``plain``: a look-up in a table on the device. ``look-up``: a call of `CachedEmbedding` in which all rows hit.
    ``books``: its decisions alone. ``gather``: rows side by side into staging memory. ``copy``: one transfer over the
    idle link, until it is there. ``insert``: rows that came into their slots. A call that misses pays the last three
    besides its look-up.

    Parameters
    ----------
    bandwidth_bytes_per_s
        What the emulated link of a machine without a GPU is held to.
    """
    advance = make_advance("embedding rows", len(plan.row_bytes) * len(plan.row_counts))
    samples: dict[str, list[Sample]] = {}
    for row_bytes in plan.row_bytes:
        with _tested(plan, row_bytes, device, bandwidth_bytes_per_s) as tested:
            for count in plan.row_counts:
                for name, times_s in tested.times(count, plan.row_cap_s):
                    samples.setdefault(name, []).extend((count, row_bytes, time_s) for time_s in times_s.tolist())
                advance(1)
    return {f"rows.{name}": fit_table(found, "rows") for name, found in samples.items()}


@contextmanager
def _tested(plan: Plan, row_bytes: int, device: str, bandwidth_bytes_per_s: float | None) -> Iterator[_TestedRows]:
    numbers = row_bytes // torch.bfloat16.itemsize
    num_rows = max(_TABLE_BYTES // row_bytes, 4 * max(plan.row_counts))
    table = torch.zeros((num_rows, numbers), dtype=torch.bfloat16, pin_memory=device == "cuda")
    place = torch.device(device)
    link = make_row_link(table, place, bandwidth_bytes_per_s)
    try:
        books = RowBooks("lru", 2 * max(plan.row_counts), num_rows=num_rows)
        yield _TestedRows(RowCache(table=table.fill_(1.0), books=books, link=link, device=place))
    finally:
        link.close()


class _TestedRows:
    """One cache over one table, asked for rows drawn at random."""

    def __init__(self, cache: RowCache) -> None:
        self._cache = cache
        self._module = CachedEmbedding(cache)
        self._rng = np.random.default_rng(11)
        self._on_device = cache.table.to(cache.device)
        self._swept = np.ones(_SWEPT_BYTES // 8)

    def times(self, count: int, cap_s: float) -> Iterator[tuple[str, FloatArray]]:
        """Yield the seconds of each part for `count` rows, by the name of its table."""
        cache = self._cache
        held = self._draw(count)
        cache.embed(held)
        tokens = torch.from_numpy(held).to(cache.device)
        yield "look-up", self._repeat_s(lambda: self._module(tokens), cap_s)
        yield "books", self._repeat_s(lambda: cache.books.fetch_ahead(held), cap_s)
        others = [self._draw(count) for _ in range(_MAX_REPEATS + 1)]
        there = [torch.from_numpy(rows).to(cache.device) for rows in others]
        turn = itertools.cycle(range(len(others)))  # rows met again would lie in a processor's cache
        yield "plain", self._repeat_s(lambda: torch.nn.functional.embedding(there[next(turn)], self._on_device), cap_s)
        yield "gather", self._repeat_s(lambda: cache.gather(others[next(turn)]), cap_s)
        staged = cache.gather(held)
        yield "copy", self._repeat_s(lambda: cache.link.send(staged, "demand").wait(), cap_s)
        slots, values = cache.books.slots_of(held), self._on_device[:count].clone()
        yield "insert", self._repeat_s(lambda: cache.insert(held, slots, values), cap_s)

    def _repeat_s(self, work: Callable[[], object], cap_s: float) -> FloatArray:
        """Return the seconds of repeated calls of `work`, until its device has done it, each after a sweep."""
        times_s: list[float] = []
        until_s = time.perf_counter() + cap_s
        while len(times_s) <= _MIN_REPEATS or (len(times_s) <= _MAX_REPEATS and time.perf_counter() < until_s):
            self._sweep()
            started_s = time.perf_counter()
            work()
            self._wait()
            times_s.append(time.perf_counter() - started_s)
        return np.array(times_s[1:])  # the first one makes what the others find

    def _sweep(self) -> None:
        self._swept.sum()
        self._wait()

    def _wait(self) -> None:
        if self._cache.device.type == "cuda":
            torch.cuda.synchronize()

    def _draw(self, count: int) -> IntArray:
        """Return different rows."""
        rows: IntArray = self._rng.choice(len(self._cache.table), count, replace=False)
        return rows
