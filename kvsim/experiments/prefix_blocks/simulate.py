"""Prefix blocks, simulated: a request trace through a prefix cache, and what the hits save of each prompt's prefill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.caches.prefix import Replayed, replay, replay_radix
from kvsim.errors import CalibrationError, ResultError
from kvsim.experiments.base import cells_of, make_result, profile_of, shape_of
from kvsim.experiments.prefix_blocks.report import COLUMNS, LEGEND, hit_figure, verdict_of
from kvsim.experiments.prefix_blocks.requests import digest_of, recorded_requests, requests_of
from kvsim.experiments.prefix_blocks.scenario import BlockCache, PrefixBlocks
from kvsim.experiments.types import Compared, Job
from kvsim.profile.profile import Profile
from kvsim.profile.tables import CostTable
from kvsim.report.pairs import cells_text, pair_cells, pairs_csv, pairs_figure, pairs_text
from kvsim.report.results import RunResult, summary_json
from kvsim.report.style import png
from kvsim.traces.requests.base import RequestBlocks
from kvsim.types import BoolArray, FloatArray, IntArray

KEYS = ("policy", "budget_blocks")
FIGURES = ("ttft_mean_s", "ttft_full_mean_s")
COUNTS = ("hit_blocks", "hit_tokens", "evicted_blocks")
RECORDED = "requests.jsonl"
"""File of a measured result with the blocks of what was sent."""


def check(scenario: PrefixBlocks, base_dir: Path | None) -> int:
    """Check profile and trace, and return the number of cells."""
    cells = cells_of(scenario)
    for trace in {cell.trace: None for cell, _ in cells}:
        requests_of(trace, base_dir)
    for cell, _ in cells:
        _prefill_of(profile_of(cell, base_dir))
    return len(cells)


def simulate(scenario: PrefixBlocks, job: Job) -> RunResult:
    """Replay the trace through the cache of every cell, or what a measured result recorded."""
    found = cells_of(scenario)
    entries, tables, traces, cases = [], [], {}, _Cases()
    profile = profile_of(found[0][0], job.base_dir)
    for number, (cell, swept) in enumerate(found):
        profile = profile_of(cell, job.base_dir)
        if cell.trace not in traces:
            traces[cell.trace] = _requests(cell, job)
        requests = traces[cell.trace]
        done = cases.of(requests, cell.cache)
        full_s, _ = prefill_times_s(profile, requests.input_tokens, 0, cell.prefill_chunk_tokens)
        cached = cached_tokens(requests, done.hits)
        ttft_s, is_outside = prefill_times_s(profile, requests.input_tokens - cached, cached, cell.prefill_chunk_tokens)
        entry = cell_of(cell, requests, done, ttft_s=ttft_s, full_s=full_s)
        unlimited = cases.of(requests, cell.cache, policy="lru")
        bound = cases.of(requests, cell.cache, policy="belady", is_limited=True)
        num_blocks = requests.blocks.size
        entry["bound_block_hit_frac"] = _ratio(int(bound.hits.sum()), num_blocks)
        entry["unlimited_block_hit_frac"] = _ratio(int(unlimited.hits.sum()), num_blocks)
        entry["ttft_outside_frac"] = float(is_outside.mean())
        entries.append(entry | swept)
        tables.append(rows_of(number, requests, done, ttft_s=ttft_s, full_s=full_s))
        job.progress(1 / len(found))
    return make_result(
        scenario,
        job,
        cells=entries,
        rows={name: np.concatenate([table[name] for table in tables]) for name in tables[0]},
        verdict=verdict_of(entries, profile_kind=profile.kind, is_assumed=scenario.trace.shared_tokens is not None),
        profile=profile,
        extra={"requests_digest": "-".join(digest_of(requests) for requests in traces.values())},
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
        return replay_radix(requests.blocks, requests.starts, policy=policy, budget_blocks=budget)
    return replay(
        requests.blocks,
        requests.starts,
        requests.parents,
        policy=policy,
        budget_blocks=budget,
        admission=admission,
        in_flight=in_flight,
    )


def budget_of(cache: BlockCache, requests: RequestBlocks) -> int | None:
    """Return the budget in blocks; None for no limit."""
    if cache.budget_frac is not None:
        return max(1, round(cache.budget_frac * requests.num_distinct))
    return cache.budget_blocks


def hit_tokens(requests: RequestBlocks, hits: IntArray) -> IntArray:
    """Return the tokens that each request's hits hold: a partial last block holds fewer than others."""
    tokens: IntArray = np.minimum(hits * requests.block_tokens, requests.input_tokens)
    return tokens


def cached_tokens(requests: RequestBlocks, hits: IntArray) -> IntArray:
    """Return the tokens that need no prefill: all that were hit but the last token, which gives the first logits."""
    tokens: IntArray = np.minimum(hit_tokens(requests, hits), np.maximum(requests.input_tokens - 1, 0))
    return tokens


def prefill_times_s(
    profile: Profile, new_tokens: IntArray, cached: IntArray | int, chunk_tokens: int
) -> tuple[FloatArray, BoolArray]:
    """Return the seconds to prefill each request in chunks, and whether a chunk lies outside what was measured."""
    table = _prefill_of(profile)
    left, done = new_tokens.copy(), np.zeros_like(new_tokens) + cached
    times_s, is_outside = np.zeros(left.size), np.zeros(left.size, dtype=bool)
    while (busy := np.flatnonzero(left > 0)).size:
        chunk = np.minimum(left[busy], chunk_tokens)
        times_s[busy] += _at_s(table, chunk, done[busy])
        is_outside[busy] |= (chunk > table.amounts[-1]) | (done[busy] > table.batches[-1])
        left[busy] -= chunk
        done[busy] += chunk
    return times_s, is_outside


def _prefill_of(profile: Profile) -> CostTable:
    if profile.prefill is None:
        raise CalibrationError(f"profile {profile.name}: no cost of prefill, which prefix blocks save; calibrate again")
    return profile.prefill


def _at_s(table: CostTable, amounts: IntArray, batches: IntArray) -> FloatArray:
    """Return `CostTable.at_s` of many."""
    rows, row_frac = _places(table.amounts, amounts)
    columns, column_frac = _places(table.batches, batches)
    time_s = np.array(table.time_s)
    below, beside = np.minimum(rows + 1, len(table.amounts) - 1), np.minimum(columns + 1, len(table.batches) - 1)
    left = time_s[rows, columns] + row_frac * (time_s[below, columns] - time_s[rows, columns])
    right = time_s[rows, beside] + row_frac * (time_s[below, beside] - time_s[rows, beside])
    found: FloatArray = np.maximum(left + column_frac * (right - left), 0.0)
    return found


def _places(grid: tuple[float, ...], values: IntArray) -> tuple[IntArray, FloatArray]:
    if len(grid) == 1:
        return np.zeros(values.size, dtype=np.int64), np.zeros(values.size)
    points = np.array(grid)
    left = np.clip(np.searchsorted(points, values, side="right") - 1, 0, len(grid) - 2)
    frac = np.maximum((values - points[left]) / (points[left + 1] - points[left]), 0.0)
    return left, frac


def cell_of(
    cell: PrefixBlocks, requests: RequestBlocks, done: Replayed, *, ttft_s: FloatArray, full_s: FloatArray
) -> dict[str, Any]:
    """Return the cell's entry of the summary."""
    counts = requests.counts
    has_blocks = counts > 0
    tokens = int(requests.input_tokens.sum())
    hits = int(done.hits.sum())
    budget = budget_of(cell.cache, requests)
    held = requests.num_distinct if budget is None else min(budget, requests.num_distinct)
    shape = shape_of(cell)
    full_mean_s, mean_s = float(full_s.mean()), float(ttft_s.mean())
    span_s = float(np.nanmax(requests.arrival_s) - np.nanmin(requests.arrival_s)) if _has_times(requests) else 0.0
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
        "block_hit_frac": _ratio(hits, int(requests.blocks.size)),
        "token_hit_frac": _ratio(int(hit_tokens(requests, done.hits).sum()), tokens),
        "request_mean_hit_frac": float(np.mean(done.hits[has_blocks] / counts[has_blocks]))
        if any(has_blocks)
        else None,
        "ttft_mean_s": mean_s,
        "ttft_p50_s": float(np.median(ttft_s)),
        "ttft_p90_s": float(np.quantile(ttft_s, 0.9)),
        "ttft_full_mean_s": full_mean_s,
        "ttft_saved_frac": 1 - mean_s / full_mean_s if full_mean_s else None,
        "prefill_load_frac": float(ttft_s.sum()) / span_s if span_s > 0 else None,
    }


def _has_times(requests: RequestBlocks) -> bool:
    return bool(np.isfinite(requests.arrival_s).any())


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def rows_of(
    number: int, requests: RequestBlocks, done: Replayed, *, ttft_s: FloatArray, full_s: FloatArray
) -> dict[str, NDArray[Any]]:
    """Return a row for each request of one cell."""
    size = requests.num_requests
    return {
        "cell": np.full(size, number),
        "request": np.arange(size),
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
    file = job.recorded / RECORDED
    if not file.is_file():
        raise ResultError(f"{job.recorded}: no {RECORDED}; give a folder that `kvsim measure` wrote of such a scenario")
    return recorded_requests(file, measured_block_tokens(cell))


def measured_block_tokens(cell: PrefixBlocks) -> int:
    """Return the tokens of a block of the requests that are really sent."""
    return cell.trace.tokens_of_block


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells and the verdict."""
    profile = summary["profile"]
    how = "measured" if summary.get("is_measured") else f"costs of {profile['name']} ({profile['kind']})"
    table = cells_text(summary["cells"], COLUMNS)
    return "\n\n".join([f"{summary['scenario']}: {how}", f"{table}\n{LEGEND}", "\n".join(summary["verdict"])])


def figures(result: RunResult) -> dict[str, bytes]:
    """Return the hit rate and the time to first token over the budget."""
    return {"prefix_blocks.png": png(hit_figure(result.summary))}


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare hits and evictions, which must be equal, and the time to first token, cell by cell and by request."""
    pairs = pair_cells(simulated, measured, keys=KEYS, figures=FIGURES, counts=COUNTS)
    if simulated.summary["requests_digest"] != measured.summary["requests_digest"]:
        raise ResultError(
            "the results are of different requests; replay the measured ones: kvsim run SCENARIO --trace MEASURED"
        )
    errors = simulated.rows["ttft_s"] / measured.rows["ttft_s"] - 1
    processor_errors = simulated.rows["ttft_s"] / measured.rows["processor_s"] - 1
    by_request = {
        "requests_equal": bool(np.array_equal(simulated.rows["hit_blocks"], measured.rows["hit_blocks"])),
        "request_ttft_median_error_frac": float(np.median(np.abs(errors))),
        "request_ttft_worst_error_frac": float(errors[np.argmax(np.abs(errors))]),
        "request_processor_median_error_frac": float(np.median(np.abs(processor_errors))),
        "next_token_agreement_frac": min(cell["next_token_agreement_frac"] for cell in measured.summary["cells"]),
        "max_logit_difference": max(cell["max_logit_difference"] for cell in measured.summary["cells"]),
    }
    contents = pairs.summary() | by_request
    lines = [
        pairs_text(pairs, COLUMNS),
        f"hits of every request equal: {'yes' if by_request['requests_equal'] else 'NO'}",
        f"time to first token of a request: median error {100 * by_request['request_ttft_median_error_frac']:.1f}%, "
        f"worst {100 * by_request['request_ttft_worst_error_frac']:+.1f}%",
        "  against the processor time of the same requests, which others on the machine do not lengthen: median error "
        f"{100 * by_request['request_processor_median_error_frac']:.1f}% (on a CPU and one thread only)",
        f"against no cache: same next token in {100 * by_request['next_token_agreement_frac']:.0f}% of the requests, "
        f"logits at most {by_request['max_logit_difference']:.3g} apart",
    ]
    return Compared(
        contents=contents,
        text="\n".join(lines),
        files={
            "compare.png": png(pairs_figure(pairs, by="policy")),
            "compare.csv": pairs_csv(pairs).encode(),
            "compare.json": summary_json(contents).encode(),
        },
    )
