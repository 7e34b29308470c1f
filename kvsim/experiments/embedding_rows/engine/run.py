"""Carries out the calls of a scenario of embedding rows on a real model, teacher-forced, timed call by call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache

from kvsim.caches.rows import RowCacheState, RowCounts
from kvsim.engine.model.forward import logits_of
from kvsim.experiments.embedding_rows.engine.cache import CachedEmbedding, RowCache, RowTally, cached_embedding
from kvsim.scenario.digest import content_digest
from kvsim.types import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStep:
    """One counted call of the model."""

    embed_s: float
    """From the call of the embedding to its rows, fetching ahead not included."""
    call_s: float
    """From the tokens to the next token on the host."""
    logits_digest: str
    """Of the last position's logits: equal digests, equal bits."""
    distinct_rows: int = 0
    hit_rows: int = 0
    prefetched_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRun:
    """All counted calls of one cell."""

    steps: list[RowStep]
    counts: RowCounts
    tally: RowTally


class _Timed(torch.nn.Module):
    """An embedding that notes how long each call takes, and fetches ahead once it has its rows."""

    def __init__(self, inner: torch.nn.Module, cache: RowCache | None) -> None:
        super().__init__()
        self._inner, self._cache = inner, cache
        self.ahead: IntArray | None = None
        self.embed_s = 0.0

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        started_s = time.perf_counter()
        rows: torch.Tensor = self._inner(input_ids)
        if rows.is_cuda:
            torch.cuda.synchronize()
        self.embed_s = time.perf_counter() - started_s
        if self._cache is not None and self.ahead is not None and self.ahead.size:
            self._cache.fetch_ahead(self.ahead)
        return rows


def run_plain(model: Any, calls: list[Any]) -> list[RowStep]:
    """Carry the counted calls out with the whole table on the device."""
    plain = model.get_input_embeddings()
    timed = _Timed(plain, None)
    model.set_input_embeddings(timed)
    try:
        return _steps(model, timed, [call for call in calls if call.counts], None)
    finally:
        model.set_input_embeddings(plain)


def run_cached(
    model: Any,
    episodes: list[list[Any]],
    make_state: Callable[[list[Any]], RowCacheState],
    *,
    bandwidth_bytes_per_s: float | None,
    chunk_rows: int,
) -> RowRun:
    """Carry the calls out through a cache that begins each episode empty.

    Parameters
    ----------
    episodes
        Calls as `kvsim.experiments.embedding_rows.calls.episodes` groups them.
    make_state
        Returns an empty cache state for an episode.
    """
    steps: list[RowStep] = []
    counts = RowCounts()
    with cached_embedding(
        model, make_state(episodes[0]), bandwidth_bytes_per_s=bandwidth_bytes_per_s, chunk_rows=chunk_rows
    ) as cache:
        timed = _Timed(CachedEmbedding(cache), cache)
        model.set_input_embeddings(timed)
        for episode in episodes:
            cache.restart(make_state(episode))
            steps += _steps(model, timed, episode, cache)
            cache.settle(None)
            counts = counts.plus(cache.state.counts)
    return RowRun(steps=steps, counts=counts, tally=cache.tally)


def _steps(model: Any, timed: _Timed, calls: list[Any], cache: RowCache | None) -> list[RowStep]:
    steps = []
    held = DynamicCache(config=model.config)
    with torch.inference_mode():
        for call in calls:
            ids = torch.from_numpy(call.tokens).to(model.device)
            if call.step == 0:
                held = DynamicCache(config=model.config)
            timed.ahead = call.ahead
            tally = replace(cache.tally) if cache is not None else RowTally()
            before = replace(cache.state.counts) if cache is not None else RowCounts()
            started_s = time.perf_counter()
            logits = logits_of(model, ids, held, logits_to_keep=1)[:, -1]
            logits.argmax(dim=-1).cpu()  # the next token is there: a device has caught up
            call_s = time.perf_counter() - started_s
            if not call.counts:
                assert cache is not None
                cache.state.counts, cache.tally = RowCounts(), tally
                continue
            after = cache.state.counts if cache is not None else before
            steps.append(
                RowStep(
                    embed_s=timed.embed_s,
                    call_s=call_s,
                    logits_digest=content_digest(logits.float().cpu().numpy()),
                    distinct_rows=after.distinct_rows - before.distinct_rows,
                    hit_rows=after.hit_rows - before.hit_rows,
                    prefetched_rows=after.prefetched_rows - before.prefetched_rows,
                )
            )
    return steps
