"""Times what a cache of embedding rows costs: look-ups, accounting, gathers on the host, copies, putting rows in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from kvsim.caches.rows import RowCacheState
from kvsim.calibration.fit import Sample, fit_table
from kvsim.calibration.plan import Plan
from kvsim.experiments.embedding_rows.engine.cache import CachedEmbedding, RowCache
from kvsim.experiments.embedding_rows.engine.link import make_row_link
from kvsim.profile.tables import CostTable
from kvsim.scenario.shapes import ModelShape
from kvsim.types import IntArray

_MIN_ROUNDS, _MAX_ROUNDS = 4, 12
_WIDTH = 1024
_STAGES = ("accounting", "gather", "copy", "merge")


def row_tables(
    shape: ModelShape,
    plan: Plan,
    *,
    device: str,
    bandwidth_bytes_per_s: float | None,
    make_advance: Callable[[str, int], Callable[[int], None]],
) -> dict[str, CostTable]:
    """Return the tables ``rows.*`` of `Profile.caches`: seconds over rows x bytes of a row.

    ``plain``: a look-up in a table on the device. ``look-up``: a call of `CachedEmbedding` whose rows are all in. A
    call whose rows all miss, stage by stage: ``state`` decide, ``gather`` lays rows side by side on the host, ``copy``
    is one transfer over the idle link until it is there, ``merge`` puts rows into their slots and the answer.
    ``ahead``: what fetching rows ahead takes of the host, ``touch`` the same where all are in, ``settle`` putting them
    into slots later.

    Before each timed part a token is multiplied with more weights than the caches of the processor hold: in a model all
    weights pass through the caches between one look-up and the next, too.
    Measured back to back they cost a quarter.

    Parameters
    ----------
    bandwidth_bytes_per_s
        What the emulated link of a machine without a GPU is held to.
    """
    del shape  # rows of every width are timed
    advance = make_advance("embedding rows", len(plan.row_bytes) * len(plan.row_counts))
    samples: dict[str, list[Sample]] = {}
    for row_bytes in plan.row_bytes:
        with _tested(plan, row_bytes, device, bandwidth_bytes_per_s) as tested:
            for count in plan.row_counts:
                for name, time_s in tested.times(count, plan.row_cap_s):
                    samples.setdefault(name, []).append((count, row_bytes, time_s))
                advance(1)
    return {f"rows.{name}": fit_table(rows, "rows", "row_bytes") for name, rows in samples.items()}


@contextmanager
def _tested(plan: Plan, row_bytes: int, device: str, bandwidth_bytes_per_s: float | None) -> Iterator[_TestedRows]:
    numbers = row_bytes // torch.bfloat16.itemsize
    num_rows = max(plan.row_table_bytes // row_bytes, 8 * max(plan.row_counts))
    table = torch.zeros((num_rows, numbers), dtype=torch.bfloat16, pin_memory=device == "cuda")
    place = torch.device(device)
    link = make_row_link(table, place, bandwidth_bytes_per_s)
    try:
        state = RowCacheState("lru", 2 * max(plan.row_counts), num_rows=num_rows)
        cache = RowCache(table=table.fill_(1.0), state=state, link=link, device=place)
        yield _TestedRows(cache, plan.row_table_bytes)
    finally:
        link.close()


class _TestedRows:
    """One cache over one table, asked for rows drawn at random."""

    def __init__(self, cache: RowCache, swept_bytes: int) -> None:
        self._cache = cache
        self._module = CachedEmbedding(cache)
        self._rng = np.random.default_rng(11)
        self._on_device = cache.table.to(cache.device)
        weights = swept_bytes // torch.bfloat16.itemsize
        self._weights = torch.ones((weights // _WIDTH, _WIDTH), dtype=torch.bfloat16, device=cache.device)
        self._hidden = torch.ones((1, _WIDTH), dtype=torch.bfloat16, device=cache.device)

    def times(self, count: int, cap_s: float) -> Iterator[tuple[str, float]]:
        """Yield the seconds of each part for `count` rows, by the name of its table; the first round is left out."""
        until_s = time.perf_counter() + cap_s
        for number in range(_MAX_ROUNDS):
            if number > _MIN_ROUNDS and time.perf_counter() > until_s:
                return
            rows = {"plain": self._plain_s(self._draw(count))} | self._call_s(count) | self._ahead_s(count)
            if number:
                yield from rows.items()

    def _plain_s(self, rows: IntArray) -> float:
        ids = torch.from_numpy(rows).to(self._cache.device)
        return self._timed_s(lambda: torch.nn.functional.embedding(ids, self._on_device))

    def _call_s(self, count: int) -> dict[str, float]:
        """Return the time of a call that hits, and of each stage of one that misses."""
        cache, module = self._cache, self._module
        held = self._draw(count)
        cache.embed(held)
        ids = torch.from_numpy(held).to(cache.device)
        look_up_s = self._timed_s(lambda: module(ids))
        fresh = torch.from_numpy(self._absent(count)).to(cache.device)
        cache.stamps = []
        self._sweep()
        stages = [time.perf_counter()]
        module(fresh)
        self._wait()
        stages += [*cache.stamps, time.perf_counter()]
        cache.stamps = None
        return {"look-up": look_up_s} | dict(zip(_STAGES, np.diff(stages).tolist(), strict=True))

    def _ahead_s(self, count: int) -> dict[str, float]:
        """Return what fetching ahead takes right after a call, and putting the rows into slots before a later one."""
        cache = self._cache
        one, held, absent = self._draw(1), self._draw(count), self._absent(count)
        cache.embed(held)
        cache.embed(one)
        touch_s = self._timed_s(lambda: cache.fetch_ahead(held), first=lambda: cache.embed(one))
        ahead_s = self._timed_s(lambda: cache.fetch_ahead(absent), first=lambda: cache.embed(one))
        cache.link.drain()
        return {"touch": touch_s, "ahead": ahead_s, "settle": self._timed_s(lambda: cache.settle(None))}

    def _timed_s(self, work: Callable[[], object], first: Callable[[], object] | None = None) -> float:
        """Return the seconds of `work` until its device has done it, after a sweep and what comes `first`."""
        self._sweep()
        if first is not None:
            first()
            self._wait()
        started_s = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started_s

    def _sweep(self) -> None:
        torch.nn.functional.linear(self._hidden, self._weights)
        self._wait()

    def _wait(self) -> None:
        if self._cache.device.type == "cuda":
            torch.cuda.synchronize()

    def _absent(self, count: int) -> IntArray:
        """Return different rows that are not in."""
        rows = self._draw(4 * count + 16)
        return rows[self._cache.state.slots_of(rows) < 0][:count]

    def _draw(self, count: int) -> IntArray:
        """Return different rows."""
        rows: IntArray = self._rng.choice(len(self._cache.table), count, replace=False)
        return rows
