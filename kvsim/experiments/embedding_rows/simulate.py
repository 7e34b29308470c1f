"""A cache of embedding rows, simulated: the calls of a token stream through the cache state, each part at its cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kvsim.caches import Cache
from kvsim.caches.rows import RowCounts
from kvsim.errors import TraceError
from kvsim.experiments.base import extended, make_result, profile_of, recorded_file, shape_of
from kvsim.experiments.embedding_rows.bigrams import Bigrams
from kvsim.experiments.embedding_rows.calls import (
    EmbedCall,
    Served,
    bigrams_of,
    budget_rows,
    calls_of,
    episodes,
    future_of,
    requests_of,
    row_bytes,
    served_of,
)
from kvsim.experiments.embedding_rows.cell import RowsCell
from kvsim.experiments.embedding_rows.clock import costs_of, simulate_calls
from kvsim.experiments.embedding_rows.report import verdict_of
from kvsim.experiments.embedding_rows.scenario import EmbeddingRows
from kvsim.experiments.types import Job
from kvsim.profile.profile import Profile
from kvsim.report.applies import mean, ratio
from kvsim.report.results import RunResult
from kvsim.scenario.digest import content_digest
from kvsim.traces.tokens.stream import read_token_stream
from kvsim.types import FloatArray, IntArray

RECORDED = "served.jsonl"
"""File of a measured result with the tokens that were read."""


def check(scenario: EmbeddingRows, base_dir: Path | None) -> int:
    """Check profile, stream and sizes, and return the number of cells."""
    for cell in scenario.cells:
        served = served_of(cell.stream, shape_of(cell).vocab_size, base_dir)
        requests_of(cell, served)
        bigrams_of(cell, served)
        budget_rows(cell)
        costs_of(cell, profile_of(cell, base_dir))
    return len(scenario.cells)


def simulate(scenario: EmbeddingRows, job: Job) -> RunResult:
    """Simulate every cell, over the whole stream or over what a measured result recorded."""
    entries, tables, digests = [], [], set()
    for cell in scenario.cells:
        profile = profile_of(cell, job.base_dir)
        served, requests, bigrams = inputs_of(cell, job)
        calls = calls_of(cell, requests, bigrams)
        costs = costs_of(cell, profile)
        columns, counts = simulate_calls(cell, calls, costs)
        entry = cell_of(cell, profile, served, columns, counts, predicted_frac(bigrams, requests))
        entry["bound_hit_frac"] = bound_hit_frac(cell, calls)
        entry["outside_frac"] = float(np.mean([costs.is_outside(call) for call in calls]))
        entries.append(extended(entry, cell.swept_values(scenario.sweep)))
        tables.append(columns)
        digests.add(content_digest(requests))
        job.progress(1 / len(scenario.cells))
    return make_result(
        scenario,
        job,
        cells=entries,
        rows=tables,
        verdict=verdict_of(entries),
        profile=profile,
        extra={"tokens_digest": "-".join(sorted(digests))},
    )


def inputs_of(cell: EmbeddingRows, job: Job, most: int | None = None) -> tuple[Served, IntArray, Bigrams | None]:
    """Return a cell's stream, its requests, those that a measurement recorded where one is replayed, and bigrams."""
    served = served_of(cell.stream, shape_of(cell).vocab_size, job.base_dir)
    bigrams = bigrams_of(cell, served)
    if job.recorded is None:
        return served, requests_of(cell, served, most), bigrams
    file = recorded_file(job.recorded, RECORDED)
    tokens = read_token_stream(file).tokens
    each = cell.run.batch * (cell.run.prompt_tokens + cell.run.new_tokens)
    if tokens.size % each:
        raise TraceError(file, f"{tokens.size} tokens are no batches of requests, which have {each}")
    shape = (-1, cell.run.batch, cell.run.prompt_tokens + cell.run.new_tokens)
    return served, tokens.reshape(shape), bigrams


def cell_of(
    cell: EmbeddingRows,
    profile: Profile,
    served: Served,
    columns: Mapping[str, FloatArray | IntArray],
    counts: RowCounts,
    predicted_frac: float | None,
) -> RowsCell:
    """Return the cell's entry of the summary from its calls, simulated or measured."""
    shape = shape_of(cell)
    is_prompt = columns["step"] == 0
    num_batches = int(is_prompt.sum())
    total_s, plain_s = float(columns["call_s"].sum()), float(columns["plain_s"].sum())
    new_tokens = num_batches * cell.run.batch * cell.run.new_tokens
    table_bytes = shape.vocab_size * row_bytes(cell)
    cache_bytes = (budget_rows(cell) + counts.most_missed_rows) * row_bytes(cell)
    hits = counts.hit_rows
    return {
        "mode": cell.run.mode,
        "policy": cell.cache.policy,
        "budget_rows": budget_rows(cell),
        "vocab_rows": shape.vocab_size,
        "row_bytes": row_bytes(cell),
        "table_bytes": table_bytes,
        "cache_bytes": cache_bytes,
        "is_tied": shape.tied_embeddings,
        "saved_bytes": (0 if shape.tied_embeddings else table_bytes) - cache_bytes,
        "num_requests": num_batches * cell.run.batch,
        "prompt_tokens": cell.run.prompt_tokens,
        "tokens": counts.tokens,
        "distinct_rows": counts.distinct_rows,
        "hit_rows": hits,
        "missed_rows": counts.missed_rows,
        "prefetched_rows": counts.prefetched_rows,
        "used_prefetched_rows": counts.used_prefetched_rows,
        "evicted_rows": counts.evicted_rows,
        "token_hit_frac": 1 - counts.missed_rows / counts.tokens,
        "row_hit_frac": hits / counts.distinct_rows,
        "step_hit_frac": ratio(
            int(columns["hit_rows"][~is_prompt].sum()), int(columns["distinct_rows"][~is_prompt].sum())
        ),
        "prefetch_used_frac": ratio(counts.used_prefetched_rows, counts.prefetched_rows),
        "prompt_embed_mean_s": float(columns["embed_s"][is_prompt].mean()),
        "prompt_plain_embed_mean_s": float(columns["plain_embed_s"][is_prompt].mean()),
        "step_embed_mean_s": mean(columns["embed_s"][~is_prompt]),
        "step_plain_embed_mean_s": mean(columns["plain_embed_s"][~is_prompt]),
        "prompt_mean_s": float(columns["call_s"][is_prompt].mean()),
        "request_mean_s": total_s / num_batches,
        "tokens_per_s": new_tokens / total_s,
        "resident_tokens_per_s": new_tokens / plain_s,
        "speed_vs_resident": plain_s / total_s,
        "is_drawn": served.is_drawn,
        "zipf_exponent": served.zipf_exponent,
        "computes_as": None if profile.shape == shape else profile.name,
        "predicted_frac": predicted_frac,
    }


def predicted_frac(bigrams: Bigrams | None, requests: IntArray) -> float | None:
    """Return how often the next token of a request was among those that the predictor expected."""
    if bigrams is None:
        return None
    return float(np.mean([bigrams.recall_frac(tokens) for tokens in requests.reshape(-1, requests.shape[-1])]))


def bound_hit_frac(cell: EmbeddingRows, calls: list[EmbedCall]) -> float:
    """Return the share of rows that Belady's MIN hits in the counted calls with this budget."""
    hits = accesses = 0
    for episode in episodes(calls):
        rows, counts = future_of(episode)
        cache = Cache("belady", budget_rows(cell), num_keys=shape_of(cell).vocab_size, future=rows)
        hits += int(cache.access(rows).hits[counts].sum())
        accesses += int(counts.sum())
    return hits / accesses
