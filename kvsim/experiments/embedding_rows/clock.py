"""When the calls of a cache of embedding rows happen: its state, what each part costs, and one link that copies."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from kvsim.caches.rows import RowCacheState, RowCounts
from kvsim.experiments.base import check_calls
from kvsim.experiments.embedding_rows.calls import EmbedCall, episodes, row_bytes, state_of
from kvsim.experiments.embedding_rows.scenario import EmbeddingRows
from kvsim.profile.profile import Profile
from kvsim.profile.tables import CostTable
from kvsim.sim.clock import Environment, Event, Process
from kvsim.sim.link import Link, Transfer
from kvsim.types import FloatArray, IntArray

COSTS = PLAIN, LOOK_UP, ACCOUNTING, GATHER, COPY, MERGE, TOUCH, AHEAD, SETTLE = (
    *("rows.plain", "rows.look-up", "rows.accounting", "rows.gather", "rows.copy", "rows.merge"),
    *("rows.touch", "rows.ahead", "rows.settle"),
)
"""Tables of the profile: see `kvsim.experiments.embedding_rows.calibrate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCosts:
    """What the parts of a call cost for rows of one size."""

    row_bytes: int
    tables: dict[str, CostTable]
    forward: CostTable

    def at_s(self, name: str, rows: int) -> float:
        """Return the seconds of `rows` rows in one part; none for none."""
        return self.tables[name].at_s(rows, row_bytes=self.row_bytes) if rows else 0.0

    def compute_s(self, call: EmbedCall) -> float:
        """Return the seconds of the model without its embedding."""
        batch, new = call.tokens.shape
        return max(0.0, self.forward.at_s(new, cached_tokens=call.cached_tokens) - self.at_s(PLAIN, batch * new))

    def is_outside(self, call: EmbedCall) -> bool:
        """Return whether a call lies outside what was measured."""
        within = self.tables[LOOK_UP].covers(call.tokens.size, row_bytes=self.row_bytes)
        return not (within and self.forward.covers(call.tokens.shape[1], cached_tokens=call.cached_tokens))


def costs_of(scenario: EmbeddingRows, profile: Profile) -> RowCosts:
    """Return the costs of a scenario's rows.

    Raises
    ------
    CalibrationError
        If the profile has them not, or those of the model's calls are another model's and cannot be.
    """
    run, forward = scenario.run, profile.cache_cost(f"forward@{scenario.run.batch}")
    check_calls(scenario, profile, forward, [(run.prompt_tokens, 0), (1, run.prompt_tokens)], batch=run.batch)
    return RowCosts(
        row_bytes=row_bytes(scenario),
        tables={name: profile.cache_cost(name) for name in COSTS},
        forward=forward,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedCall:
    """What one counted call of a cell did."""

    request: int
    step: int
    tokens: int
    distinct_rows: int
    hit_rows: int
    prefetched_rows: int
    embed_s: float
    """From the call of the embedding to its rows; fetching ahead not included."""
    wait_s: float
    """Of that, for rows that were missed or on their way."""
    call_s: float
    """The whole call of the model, and what fetching ahead takes of it."""
    plain_s: float
    """The whole call with the table on the device."""
    plain_embed_s: float
    """Of that, the embedding."""


def simulate_calls(
    scenario: EmbeddingRows, calls: list[EmbedCall], costs: RowCosts
) -> tuple[dict[str, FloatArray | IntArray], RowCounts]:
    """Return when every counted call happens, a column for each field of `TimedCall`, and what the state counts."""
    timed: list[TimedCall] = []
    counts = RowCounts()
    for episode in episodes(calls):
        state = state_of(scenario, episode)
        env = Environment()
        host = _Host(env, scenario, state, costs, timed)
        env.run(until=env.process(host.run(episode)))
        counts = counts.plus(state.counts)
    return {each.name: np.array([getattr(call, each.name) for call in timed]) for each in fields(TimedCall)}, counts


class _Host:
    """The thread that carries out the calls of one cache from empty: its page table, the link and the clock."""

    def __init__(
        self, env: Environment, scenario: EmbeddingRows, state: RowCacheState, costs: RowCosts, timed: list[TimedCall]
    ) -> None:
        self._env = env
        self._chunk_rows = scenario.prefetch.chunk_rows
        self._state, self._costs, self._timed = state, costs, timed
        self._link = Link(env, lambda num_rows: costs.at_s(COPY, num_rows))
        self._on_the_way: deque[tuple[Transfer, IntArray]] = deque()

    def run(self, calls: Sequence[EmbedCall]) -> Process[None]:
        """Carry out the calls; those that only warm the cache take no time."""
        for call in calls:
            if call.counts:
                yield from self._call(call)
            else:
                self._state.look_up(call.tokens)
                self._state.counts = RowCounts()

    def _call(self, call: EmbedCall) -> Process[None]:
        started_s = self._env.now
        lookup = self._state.look_up(call.tokens)
        num_missed = int(lookup.rows.size - lookup.hits.sum())
        wait_s = yield from self._settle(lookup.rows)
        if num_missed:
            yield self._spend(ACCOUNTING, call.tokens.size)
            decided_s = self._env.now
            yield self._spend(GATHER, num_missed)
            yield self._link.send(num_missed, is_demand=True).done
            wait_s += self._env.now - decided_s
            yield self._spend(MERGE, lookup.rows.size)
        else:
            yield self._spend(LOOK_UP, call.tokens.size)
        embed_s = self._env.now - started_s
        num_ahead = yield from self._fetch_ahead(call)
        compute_s, plain_s = self._costs.compute_s(call), self._costs.at_s(PLAIN, call.tokens.size)
        yield self._env.timeout(compute_s)
        self._timed.append(
            TimedCall(
                request=call.request,
                step=call.step,
                tokens=call.tokens.size,
                distinct_rows=lookup.rows.size,
                hit_rows=lookup.rows.size - num_missed,
                prefetched_rows=num_ahead,
                embed_s=embed_s,
                wait_s=wait_s,
                call_s=self._env.now - started_s,
                plain_s=compute_s + plain_s,
                plain_embed_s=plain_s,
            )
        )

    def _settle(self, rows: IntArray) -> Process[float]:
        """Wait for those of `rows` that are on their way and put all that has arrived into slots; return the wait."""
        started_s, needed_rows = self._env.now, set(rows.tolist())
        needed = [transfer for transfer, chunk in self._on_the_way if not needed_rows.isdisjoint(chunk.tolist())]
        if needed:
            yield needed[-1].done  # chunks travel in their order
        wait_s = self._env.now - started_s
        arrived = [chunk.size for transfer, chunk in self._on_the_way if transfer.done.triggered]
        for size in arrived:
            self._on_the_way.popleft()
            yield self._spend(SETTLE, size)
        return wait_s

    def _fetch_ahead(self, call: EmbedCall) -> Process[int]:
        """Have rows come ahead, chunk by chunk as the host hands them over; return how many travel."""
        if not call.ahead.size:
            return 0
        rows = self._state.fetch_ahead(call.ahead).rows
        if not rows.size:
            yield self._spend(TOUCH, call.ahead.size)
        own_s = self._costs.at_s(AHEAD, int(rows.size))
        for start in range(0, rows.size, self._chunk_rows):
            chunk = rows[start : start + self._chunk_rows]
            yield self._env.timeout(own_s * chunk.size / rows.size)
            self._on_the_way.append((self._link.send(int(chunk.size), is_demand=False), chunk))
        return int(rows.size)

    def _spend(self, name: str, num_rows: int) -> Event:
        return self._env.timeout(self._costs.at_s(name, num_rows))
