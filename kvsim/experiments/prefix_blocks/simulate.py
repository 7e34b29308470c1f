"""Prefix blocks, simulated: a request trace through a prefix cache, and what the hits save of each prompt's prefill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.caches.prefix import Replayed, replay, replay_radix
from kvsim.experiments.base import extended, make_result, prefill_or_reason, profile_of, recorded_file, shape_of
from kvsim.experiments.prefix_blocks.cell import BlocksCell
from kvsim.experiments.prefix_blocks.report import verdict_of
from kvsim.experiments.prefix_blocks.requests import digest_of, recorded_requests, requests_of
from kvsim.experiments.prefix_blocks.scenario import BlockCache, PrefixBlocks
from kvsim.experiments.types import Job
from kvsim.profile.prefill import PrefillCost
from kvsim.profile.profile import Profile
from kvsim.report.applies import mean, quantile, ratio
from kvsim.report.results import RunResult
from kvsim.scenario.shapes import check_context
from kvsim.traces.requests.base import RequestBlocks
from kvsim.types import FloatArray, IntArray

RECORDED = "requests.jsonl"
"""File of a measured result with the blocks of what was sent."""


def check(scenario: PrefixBlocks, base_dir: Path | None) -> int:
    """Check profile and trace, and return the number of cells."""
    traces = {trace: requests_of(trace, base_dir) for trace in {cell.trace: None for cell in scenario.cells}}
    for cell in scenario.cells:
        profile_of(cell, base_dir)
        check_context(shape_of(cell), int(traces[cell.trace].input_tokens.max()), cell.name)
    return len(scenario.cells)


def warnings(scenario: PrefixBlocks, beside: Path | None) -> list[str]:
    """Return a line if times are not known, and one if times of arrival go backward."""
    lines: list[str | None] = []
    for cell in scenario.cells:
        requests = requests_of(cell.trace, beside)
        prefill = prefill_of(cell, profile_of(cell, beside), requests)
        lines += [prefill if isinstance(prefill, str) else None, backward_of(requests)]
    return list(dict.fromkeys(line for line in lines if line is not None))


def simulate(scenario: PrefixBlocks, job: Job) -> RunResult:
    """Replay the trace through the cache of every cell, or what a measured result recorded."""
    entries, tables, traces, cases = [], [], {}, _Cases()
    notes: list[str | None] = []
    for cell in scenario.cells:
        profile = profile_of(cell, job.base_dir)
        if cell.trace not in traces:
            traces[cell.trace] = _requests(cell, job)
        requests = traces[cell.trace]
        check_context(shape_of(cell), int(requests.input_tokens.max()), cell.name)
        done = cases.of(requests, cell.cache)
        prefill, cached = prefill_of(cell, profile, requests), hit_tokens(requests, done.hits)
        outside_frac = None
        if isinstance(prefill, str):
            full_s, ttft_s = (np.full(requests.num_requests, np.nan) for _ in range(2))
            notes.append(prefill)
        else:
            full_s, _ = prefill.times_s(requests.input_tokens, 0)
            ttft_s, is_outside = prefill.times_s(requests.input_tokens - cached, cached)
            outside_frac = float(is_outside.mean())
        notes.append(backward_of(requests))
        entry = cell_of(cell, requests, done, ttft_s=ttft_s, full_s=full_s)
        unlimited = cases.of(requests, cell.cache, policy="lru")
        bound = cases.of(requests, cell.cache, policy="belady", is_limited=True)
        num_blocks = requests.blocks.size
        entry["bound_block_hit_frac"] = ratio(int(bound.hits.sum()), num_blocks)
        entry["unlimited_block_hit_frac"] = ratio(int(unlimited.hits.sum()), num_blocks)
        entry["ttft_outside_frac"] = outside_frac
        entries.append(extended(entry, cell.swept_values(scenario.sweep)))
        tables.append(rows_of(requests, done, ttft_s=ttft_s, full_s=full_s))
        job.progress(1 / len(scenario.cells))
    return make_result(
        scenario,
        job,
        cells=entries,
        rows=tables,
        verdict=[
            *verdict_of(entries, profile_kind=profile.kind, is_assumed=scenario.trace.shared_tokens is not None),
            *dict.fromkeys(line for line in notes if line is not None),
        ],
        profile=profile,
        extra={
            "requests_digest": "-".join(digest_of(requests) for requests in traces.values()),
            "trace_reading": list(dict.fromkeys(requests.reading for requests in traces.values())),
        },
    )


class _Cases:
    """What caches do with traces, each computed once."""

    def __init__(self) -> None:
        self._done: dict[tuple[Any, ...], Replayed] = {}

    def of(
        self, requests: RequestBlocks, cache: BlockCache, *, policy: str | None = None, is_limited: bool | None = None
    ) -> Replayed:
        """Return what `cache` does; with `policy`, what that one does, unlimited unless `is_limited`."""
        budget = budget_of(cache, requests)
        if policy is None:
            key: tuple[Any, ...] = (id(requests), cache.policy, budget, cache.admission, cache.index, cache.in_flight)
        else:
            budget = budget if is_limited else None
            key = (id(requests), policy, budget, "all", "hash", 1)
        if key not in self._done:
            self._done[key] = run_cache(requests, *key[1:])
        return self._done[key]


def run_cache(
    requests: RequestBlocks, policy: str, budget: int | None, admission: str, index: str, in_flight: int
) -> Replayed:
    """Return what one cache does with a trace."""
    if index == "radix":
        return replay_radix(
            requests.blocks, requests.starts, policy=policy, budget_blocks=budget, most_hits=requests.most_hits
        )
    return replay(
        requests.blocks,
        requests.starts,
        requests.parents,
        policy=policy,
        budget_blocks=budget,
        admission=admission,
        in_flight=in_flight,
        most_hits=requests.most_hits,
    )


def budget_of(cache: BlockCache, requests: RequestBlocks) -> int | None:
    """Return the budget in blocks; None for no limit."""
    if cache.budget_frac is not None:
        return max(1, round(cache.budget_frac * requests.num_distinct))
    return cache.budget_blocks


def hit_tokens(requests: RequestBlocks, hits: IntArray) -> IntArray:
    """Return the tokens of each request that need no prefill: its hits are full blocks and leave out its last token."""
    return hits * requests.block_tokens


def prefill_of(cell: PrefixBlocks, profile: Profile, requests: RequestBlocks) -> PrefillCost | str:
    """Return the cost of a cell's prefill, or a line on why times are not known. Hits follow without them."""
    longest = int(requests.input_tokens.max())
    cost = prefill_or_reason(cell, profile, chunk_tokens=cell.prefill_chunk_tokens, longest_tokens=longest)
    return f"Times are not known: {cost}." if isinstance(cost, str) else cost


def backward_of(requests: RequestBlocks) -> str | None:
    """Return a line where requests arrive before the one above them; None where times of arrival never go back."""
    known = requests.arrival_s[np.isfinite(requests.arrival_s)]
    is_back = np.diff(known) < 0
    if not is_back.any():
        return None
    first = int(np.argmax(is_back))
    return (
        f"Times of arrival go backward {int(is_back.sum()):,} times in the trace, first at request {first + 2:,} "
        f"({known[first + 1]:g} s after {known[first]:g} s): requests are replayed in the file's order."
    )


def cell_of(
    cell: PrefixBlocks, requests: RequestBlocks, done: Replayed, *, ttft_s: FloatArray, full_s: FloatArray
) -> BlocksCell:
    """Return the cell's entry of the summary."""
    counts = requests.counts
    has_blocks = counts > 0
    tokens = int(requests.input_tokens.sum())
    hits = int(done.hits.sum())
    budget = budget_of(cell.cache, requests)
    held = requests.num_distinct if budget is None else min(budget, requests.num_distinct)
    shape = shape_of(cell)
    saved_frac = ratio(float((full_s - ttft_s).mean()), float(full_s.mean()))
    has_times = bool(np.isfinite(requests.arrival_s).all())
    return {
        "policy": cell.cache.policy,
        "admission": cell.cache.admission,
        "index": cell.cache.index,
        "in_flight": cell.cache.in_flight,
        "budget_blocks": budget,
        "block_tokens": requests.block_tokens,
        "cache_bytes": held * shape.num_layers * shape.page_bytes(requests.block_tokens),
        "num_requests": requests.num_requests,
        "num_blocks": int(requests.blocks.size),
        "distinct_blocks": requests.num_distinct,
        "hit_blocks": hits,
        "hit_tokens": int(hit_tokens(requests, done.hits).sum()),
        "evicted_blocks": int(done.evictions.sum()),
        "block_hit_frac": ratio(hits, int(requests.blocks.size)),
        "token_hit_frac": ratio(int(hit_tokens(requests, done.hits).sum()), tokens),
        "request_mean_hit_frac": mean(done.hits[has_blocks] / counts[has_blocks]),
        "ttft_mean_s": mean(ttft_s),
        "ttft_p50_s": quantile(ttft_s, 0.5),
        "ttft_p90_s": quantile(ttft_s, 0.9),
        "ttft_full_mean_s": mean(full_s),
        "ttft_saved_frac": saved_frac,
        "prefill_load_frac": ratio(float(ttft_s.sum()), float(np.ptp(requests.arrival_s)) if has_times else 0.0),
    }


def rows_of(
    requests: RequestBlocks, done: Replayed, *, ttft_s: FloatArray, full_s: FloatArray
) -> dict[str, NDArray[Any]]:
    """Return a row for each request of one cell."""
    return {
        "request": np.arange(requests.num_requests),
        "arrival_s": requests.arrival_s,
        "input_tokens": requests.input_tokens,
        "blocks": requests.counts,
        "hit_blocks": done.hits,
        "hit_tokens": hit_tokens(requests, done.hits),
        "evicted_blocks": done.evictions,
        "ttft_s": ttft_s,
        "ttft_full_s": full_s,
    }


def _requests(cell: PrefixBlocks, job: Job) -> RequestBlocks:
    if job.recorded is None:
        return requests_of(cell.trace, job.base_dir)
    return recorded_requests(recorded_file(job.recorded, RECORDED), cell.trace.tokens_of_block)
