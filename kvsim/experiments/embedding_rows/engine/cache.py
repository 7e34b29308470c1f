"""An input embedding whose table stays in host memory, and a cache of its rows on the device, swapped into a model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kvsim.caches.rows import RowCacheState, RowCall
from kvsim.engine.links.page_pool import NOWHERE, EngineError
from kvsim.errors import KvsimError
from kvsim.experiments.embedding_rows.engine.link import RowFlight, RowLink, make_row_link
from kvsim.types import IntArray


@dataclass(slots=True, kw_only=True)
class RowTally:
    """What was really read and copied, counted where it happens."""

    read_rows: int = 0
    """Distinct rows of a call read from slots whose tag was theirs."""
    demanded_rows: int = 0
    """Rows copied while a call waited."""
    early_rows: int = 0
    """Rows copied ahead, as far as they have been seen to arrive."""


@dataclass(slots=True)
class _Early:
    rows: IntArray
    flight: RowFlight


@dataclass(slots=True, kw_only=True)
class RowCache:
    """The rows on the device, and those on their way: bytes, where the cache state says who belongs where.

    Parameters
    ----------
    table
        The rows in host memory, ``[num_rows, hidden_size]``.
    state
        Decides what is kept.
    device
        Where the rows are used.
    chunk_rows
        Rows of one transfer of what is fetched ahead.
    """

    table: torch.Tensor
    state: RowCacheState
    link: RowLink
    device: torch.device
    chunk_rows: int = 64
    tally: RowTally = field(default_factory=RowTally)
    stamps: list[float] | None = None
    """If set, when the stages of a call that misses end: accounting, gather, copy; each waits for the device."""
    slots: torch.Tensor = field(init=False)
    """``[capacity, hidden_size]``; a slot never written holds NaN, which would be seen."""
    _tags: IntArray = field(init=False)
    _early: list[_Early] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        size = (self.state.capacity_rows, self.table.shape[1])
        self.slots = torch.full(size, float("nan"), dtype=self.table.dtype, device=self.device)
        self._tags = np.full(self.state.capacity_rows, NOWHERE)

    def restart(self, state: RowCacheState) -> None:
        """Begin with an empty cache state, of the same capacity."""
        self.settle(None)
        assert state.capacity_rows == self.state.capacity_rows
        self.state = state
        self._tags[:] = NOWHERE

    def embed(self, token_ids: IntArray) -> torch.Tensor:
        """Return the rows of tokens, ``[tokens, hidden_size]``."""
        if self._early:
            self.settle(token_ids)
        call = self.state.look_up(token_ids)
        self._stamp()
        return self._read(call) if call.hits.all() else self._fetch(call)

    def fetch_ahead(self, token_ids: IntArray) -> None:
        """Have the rows of tokens to come copied while something else is computed."""
        fetch = self.state.fetch_ahead(token_ids)
        for start in range(0, fetch.rows.size, self.chunk_rows):
            rows = fetch.rows[start : start + self.chunk_rows]
            self._early.append(_Early(rows, self.link.send(self.gather(rows), "prefetch")))

    def gather(self, rows: IntArray) -> torch.Tensor:
        """Return rows of the table side by side in the host's staging memory."""
        staged = self.link.staging(rows.size)
        torch.index_select(self.table, 0, torch.from_numpy(rows), out=staged)
        return staged

    def settle(self, token_ids: IntArray | None) -> None:
        """Put rows that have come into their slots, waiting for those of `token_ids`; for all where it is None."""
        needed = None if token_ids is None else set(token_ids.reshape(-1).tolist())
        last = -1
        for place, early in enumerate(self._early):
            if needed is None or not needed.isdisjoint(early.rows.tolist()):
                last = place
        while self._early and (last >= 0 or self._early[0].flight.is_done):
            early = self._early.pop(0)
            last -= 1
            self.tally.early_rows += early.flight.wait()
            slots = self.state.slots_of(early.rows)
            self.insert(early.rows, slots, early.flight.rows)

    def insert(self, rows: IntArray, slots: IntArray, values: torch.Tensor) -> None:
        """Write rows into their slots; those whose slot is -1 are not kept."""
        is_stored = slots >= 0
        if not is_stored.any():
            return
        if not is_stored.all():
            values = values.index_select(0, self._places(np.flatnonzero(is_stored)))
            rows, slots = rows[is_stored], slots[is_stored]
        self.slots.index_copy_(0, self._places(slots), values)
        self._tags[slots] = rows

    def _read(self, call: RowCall) -> torch.Tensor:
        """Return the rows of a call that all hit."""
        self._check(call.rows, call.slots)
        return self.slots.index_select(0, self._places(call.slots[call.place_of]))

    def _fetch(self, call: RowCall) -> torch.Tensor:
        """Return the rows of a call of which some must travel."""
        is_missed = ~call.hits
        missed = call.rows[is_missed]
        staged = self.gather(missed)
        self._stamp()
        flight = self.link.send(staged, "demand")
        hit_slots = call.slots[call.hits]
        self._check(call.rows[call.hits], hit_slots)
        hit_rows = self.slots.index_select(0, self._places(hit_slots))  # before newcomers take these slots
        self.tally.demanded_rows += flight.wait()
        self._stamp()
        side_by_side = torch.cat((hit_rows, flight.rows)) if hit_slots.size else flight.rows
        order = np.empty(call.rows.size, dtype=np.int64)
        order[call.hits] = np.arange(hit_slots.size)
        order[is_missed] = np.arange(hit_slots.size, call.rows.size)
        embedded = side_by_side.index_select(0, self._places(order[call.place_of]))
        self.insert(missed, call.homes[is_missed], flight.rows)
        return embedded

    def _check(self, rows: IntArray, slots: IntArray) -> None:
        tags = self._tags[slots]
        if not np.array_equal(tags, rows):
            place = int(np.flatnonzero(tags != rows)[0])
            raise EngineError(f"row {int(rows[place])} is not in slot {int(slots[place])}, which holds {tags[place]}")
        self.tally.read_rows += rows.size

    def _stamp(self) -> None:
        if self.stamps is None:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.stamps.append(time.perf_counter())

    def _places(self, places: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(places).to(self.device, non_blocking=True)


class CachedEmbedding(nn.Module):
    """What stands in a model's place of its embedding."""

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self.cache = cache

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the rows of tokens, ``[..., hidden_size]``."""
        rows = self.cache.embed(input_ids.detach().reshape(-1).cpu().numpy())
        return rows.view(*input_ids.shape, rows.shape[-1])


@contextmanager
def cached_embedding(
    model: Any, state: RowCacheState, *, bandwidth_bytes_per_s: float | None = None, chunk_rows: int = 64
) -> Iterator[RowCache]:
    """Swap a model's input embedding for a cache of its rows, and put it back in the end.

    Where the output head shares the table (tied weights), the head goes on reading it on the device, so nothing is
    saved; else the table leaves the device meanwhile.

    Parameters
    ----------
    bandwidth_bytes_per_s
        Of the emulated link; needed without a GPU, where the table stays where it is and the link alone is slow.

    Raises
    ------
    KvsimError
        If the model's embedding is more than a table, or has other rows than the cache state.

    Examples
    --------
    ``with cached_embedding(model, RowCacheState("lru", 4096, num_rows=49152), bandwidth_bytes_per_s=2e9): ...``
    """
    plain = _plain_table(model, state)
    device = plain.weight.device
    is_tied = is_tied_to_head(model)
    table = plain.weight.data
    if device.type == "cuda":
        table = table.cpu().pin_memory()
        if not is_tied:
            plain.weight.data = table
    link = make_row_link(table, device, bandwidth_bytes_per_s)
    cache = RowCache(table=table, state=state, link=link, device=device, chunk_rows=chunk_rows)
    model.set_input_embeddings(CachedEmbedding(cache))
    try:
        yield cache
    finally:
        model.set_input_embeddings(plain)
        link.close()
        plain.weight.data = plain.weight.data.to(device)


def is_tied_to_head(model: Any) -> bool:
    """Return whether the output head reads the same table."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _plain_table(model: Any, state: RowCacheState) -> nn.Embedding:
    plain = model.get_input_embeddings()
    if type(plain) is not nn.Embedding or plain.max_norm is not None:
        raise KvsimError(f"the model's input embedding is a {type(plain).__name__}, not a plain table of rows")
    if plain.num_embeddings != state.num_rows:
        raise KvsimError(
            f"the model's input embedding has {plain.num_embeddings} rows, the cache state has {state.num_rows}"
        )
    return plain
