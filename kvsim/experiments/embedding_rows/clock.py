"""When the calls of a cache of embedding rows happen: its books, what each part costs, and one link that copies."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, fields

import numpy as np

from kvsim.caches.rows import RowBooks, RowCounts
from kvsim.experiments.base import check_calls
from kvsim.experiments.embedding_rows.calls import EmbedCall, books_of, episodes, row_bytes
from kvsim.experiments.embedding_rows.scenario import EmbeddingRows
from kvsim.profile.profile import Profile
from kvsim.profile.tables import CostTable
from kvsim.types import FloatArray, IntArray

COSTS = PLAIN, LOOK_UP, BOOKS, GATHER, COPY, MERGE, TOUCH, AHEAD, SETTLE = (
    *("rows.plain", "rows.look-up", "rows.books", "rows.gather", "rows.copy", "rows.merge"),
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


@dataclass(slots=True, kw_only=True)
class Timed:
    """What the counted calls of one cell did, an entry a call."""

    request: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    distinct_rows: list[int] = field(default_factory=list)
    hit_rows: list[int] = field(default_factory=list)
    prefetched_rows: list[int] = field(default_factory=list)
    embed_s: list[float] = field(default_factory=list)
    """From the call of the embedding to its rows; fetching ahead not included."""
    wait_s: list[float] = field(default_factory=list)
    """Of that, for rows that were missed or on their way."""
    call_s: list[float] = field(default_factory=list)
    """The whole call of the model, and what fetching ahead takes of it."""
    plain_s: list[float] = field(default_factory=list)
    """The whole call with the table on the device."""
    plain_embed_s: list[float] = field(default_factory=list)
    """Of that, the embedding."""

    def add(self, **values: float) -> None:
        """Add one call."""
        for name, value in values.items():
            getattr(self, name).append(value)

    def columns(self) -> dict[str, FloatArray | IntArray]:
        """Return the entries as arrays."""
        return {each.name: np.array(getattr(self, each.name)) for each in fields(self)}


class LinkClock:
    """One direction of a link: a demand overtakes chunks fetched ahead that have not begun."""

    def __init__(self) -> None:
        self._free_s = 0.0
        self._waiting: deque[tuple[float, float, IntArray]] = deque()
        self._on_the_way: deque[tuple[float, IntArray]] = deque()

    def fetch_ahead(self, rows: IntArray, now_s: float, copy_s: float) -> None:
        """Queue one chunk."""
        self._waiting.append((now_s, copy_s, rows))

    def settle(self, rows: IntArray, now_s: float) -> tuple[float, list[int]]:
        """Wait for those of `rows` that are on their way; return until when, and the rows of each chunk that is there.

        Chunks travel in their order, so those before the last one waited for arrive too.
        """
        self._begin_until(now_s)
        wanted = set(rows.tolist())
        while any(not wanted.isdisjoint(chunk.tolist()) for _, _, chunk in self._waiting):
            self._begin()
        due_s = max((due_s for due_s, chunk in self._on_the_way if not wanted.isdisjoint(chunk.tolist())), default=0.0)
        due_s = max(due_s, now_s)
        arrived = []
        while self._on_the_way and self._on_the_way[0][0] <= due_s:
            arrived.append(int(self._on_the_way.popleft()[1].size))
        return due_s, arrived

    def demand(self, now_s: float, copy_s: float) -> float:
        """Return when rows that are fetched now arrive."""
        self._begin_until(now_s)
        self._free_s = max(self._free_s, now_s) + copy_s
        return self._free_s

    def _begin_until(self, now_s: float) -> None:
        while self._waiting and max(self._free_s, self._waiting[0][0]) < now_s:
            self._begin()

    def _begin(self) -> None:
        """Carry out the next waiting chunk."""
        queued_s, copy_s, rows = self._waiting.popleft()
        self._free_s = max(self._free_s, queued_s) + copy_s
        self._on_the_way.append((self._free_s, rows))


def simulate_calls(scenario: EmbeddingRows, calls: list[EmbedCall], costs: RowCosts) -> tuple[Timed, RowCounts]:
    """Return when every counted call happens, and what the books count of these."""
    timed, counts = Timed(), RowCounts()
    for episode in episodes(calls):
        books = books_of(scenario, episode)
        link, now_s = LinkClock(), 0.0
        for call in episode:
            if not call.counts:
                books.look_up(call.tokens)
                books.counts = RowCounts()
                continue
            now_s = _carry_out(call, scenario, books, link, costs, timed, now_s)
        counts = counts.plus(books.counts)
    return timed, counts


def _carry_out(
    call: EmbedCall,
    scenario: EmbeddingRows,
    books: RowBooks,
    link: LinkClock,
    costs: RowCosts,
    timed: Timed,
    now_s: float,
) -> float:
    """Add one counted call that begins at `now_s`, and return when it ends."""
    found = books.look_up(call.tokens)
    num_missed = int(found.rows.size - found.hits.sum())
    late_s, arrived = link.settle(found.rows, now_s)
    arrived_s = late_s + sum(costs.at_s(SETTLE, size) for size in arrived)
    wait_s = late_s - now_s
    if num_missed:
        decided_s = arrived_s + costs.at_s(BOOKS, call.tokens.size)
        copied_s = link.demand(decided_s + costs.at_s(GATHER, num_missed), costs.at_s(COPY, num_missed))
        wait_s += copied_s - decided_s
        arrived_s = copied_s + costs.at_s(MERGE, found.rows.size)
    else:
        arrived_s += costs.at_s(LOOK_UP, call.tokens.size)
    ahead_s, num_ahead = _fetch_ahead(call, scenario, books, link, costs, arrived_s)
    compute_s = costs.compute_s(call)
    ends_s = arrived_s + ahead_s + compute_s
    plain_s = costs.at_s(PLAIN, call.tokens.size)
    timed.add(
        request=call.request,
        step=call.step,
        tokens=call.tokens.size,
        distinct_rows=found.rows.size,
        hit_rows=found.rows.size - num_missed,
        prefetched_rows=num_ahead,
        embed_s=arrived_s - now_s,
        wait_s=wait_s,
        call_s=ends_s - now_s,
        plain_s=compute_s + plain_s,
        plain_embed_s=plain_s,
    )
    return ends_s


def _fetch_ahead(
    call: EmbedCall, scenario: EmbeddingRows, books: RowBooks, link: LinkClock, costs: RowCosts, now_s: float
) -> tuple[float, int]:
    """Let rows come ahead; return what that takes of the host's time, and how many travel."""
    if not call.ahead.size:
        return 0.0, 0
    fetch = books.fetch_ahead(call.ahead)
    num_ahead = int(fetch.rows.size)
    own_s = costs.at_s(AHEAD, num_ahead) if num_ahead else costs.at_s(TOUCH, call.ahead.size)
    for start in range(0, num_ahead, scenario.prefetch.chunk_rows):
        chunk = fetch.rows[start : start + scenario.prefetch.chunk_rows]
        link.fetch_ahead(chunk, now_s + own_s * (start + chunk.size) / num_ahead, costs.at_s(COPY, chunk.size))
    return own_s, num_ahead
