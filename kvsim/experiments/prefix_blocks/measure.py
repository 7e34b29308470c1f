"""Prefix blocks for real: prompts of real text to the real model, through a real store of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.caches.prefix import PrefixCache, Replayed, hash_blocks, make_eviction
from kvsim.caches.prefix.future import next_uses
from kvsim.caches.prefix.replay import chains
from kvsim.engine.model.families import context_limit_of
from kvsim.engine.model.first_token import agreement_of, medians
from kvsim.engine.model.generation import use_threads
from kvsim.engine.model.loading import load_model_of
from kvsim.engine.model.text import read_text
from kvsim.errors import ScenarioError
from kvsim.experiments.base import extended, make_result, model_path_of, profile_of, shape_of
from kvsim.experiments.prefix_blocks.engine.run import Answered, answer
from kvsim.experiments.prefix_blocks.engine.store import BlockStore
from kvsim.experiments.prefix_blocks.report import verdict_of
from kvsim.experiments.prefix_blocks.requests import digest_of
from kvsim.experiments.prefix_blocks.scenario import PrefixBlocks, RealRequests
from kvsim.experiments.prefix_blocks.simulate import RECORDED, budget_of, cell_of, rows_of
from kvsim.experiments.types import Job, Measurement
from kvsim.report.results import RunResult
from kvsim.scenario.checks import check_length
from kvsim.scenario.shipped import near
from kvsim.traces.requests.base import Request, RequestBlocks, gather
from kvsim.traces.requests.full_blocks import full_blocks_text


def measure(scenario: PrefixBlocks, job: Job) -> tuple[RunResult, dict[str, bytes]]:
    """Send the prompts without a cache, then through that of every cell, in turn; return also what was sent.

    Raises
    ------
    ScenarioError
        If the scenario says not what to send, or the model or the text does not suit it.
    """
    cells = scenario.cells
    real = _checked(scenario)
    profile = profile_of(scenario, job.base_dir)
    path = model_path_of(scenario, job.base_dir)
    model, tokenizer = load_model_of(shape_of(scenario), path, profile.device, where=scenario.name)
    prompts = make_prompts(real, _token_ids(scenario, tokenizer, real, near(real.text, job.base_dir)))
    check_length(max(map(len, prompts)), context_limit_of(model), where=f"{scenario.name}: the longest prompt")
    sent = [_request(prompt, scenario.trace.tokens_of_block) for prompt in prompts]
    requests = gather(sent, block_tokens=scenario.trace.tokens_of_block, source=scenario.name)
    use_threads(profile.machine.num_threads)
    answer(model, prompts[-1], chunk_tokens=scenario.prefill_chunk_tokens)  # the first call is slower than any other
    share = 1 / (real.repeats * (len(cells) + 1))
    runs: list[list[list[Answered]]] = [[] for _ in range(len(cells) + 1)]
    for _ in range(real.repeats):
        runs[-1].append([answer(model, prompt, chunk_tokens=scenario.prefill_chunk_tokens) for prompt in prompts])
        job.progress(share)
        for number, cell in enumerate(cells):
            runs[number].append(_run(model, cell, prompts, requests))
            job.progress(share)
    result = _result(scenario, job, requests, runs)
    return result, {RECORDED: full_blocks_text(sent)}


def make_prompts(real: RealRequests, token_ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the prompts in the order sent: turn by turn, session by session.

    All begin with the same system prompt; a session's turn is its last one with `turn_tokens` more of its own text.
    """
    system, texts = token_ids[: real.system_tokens], token_ids[real.system_tokens :]
    own_tokens = real.turns * real.turn_tokens
    return [
        np.concatenate([system, texts[session * own_tokens : session * own_tokens + (turn + 1) * real.turn_tokens]])
        for turn in range(real.turns)
        for session in range(real.sessions)
    ]


def _checked(scenario: PrefixBlocks) -> RealRequests:
    if scenario.measure is None:
        raise ScenarioError(f"{scenario.name}: no [measure] table; it says what to send, as in measure.sessions = 4")
    if any(cell.cache.index == "radix" for cell in scenario.cells):
        raise ScenarioError(f"{scenario.name}: cache.index 'radix' is simulated only; measure with 'hash'")
    if any(key.startswith(("trace", "measure", "prefill", "model", "profile")) for key in scenario.sweep):
        raise ScenarioError(f"{scenario.name}: a measurement sweeps fields of cache only: all cells read one set")
    return scenario.measure


def _token_ids(scenario: PrefixBlocks, tokenizer: Any, real: RealRequests, text: str) -> NDArray[np.int64]:
    ids = np.array(tokenizer(read_text(text), add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)
    needed = real.system_tokens + real.sessions * real.turns * real.turn_tokens
    if ids.size < needed:
        raise ScenarioError(f"{scenario.name}: measure.text {text!r} has {ids.size} tokens; the sessions need {needed}")
    return ids[:needed]


def _request(prompt: NDArray[np.int64], block_tokens: int) -> Request:
    return Request(
        arrival_s=0.0, input_tokens=int(prompt.size), output_tokens=1, blocks=hash_blocks(prompt, block_tokens)
    )


def _run(model: Any, cell: PrefixBlocks, prompts: list[NDArray[np.int64]], requests: RequestBlocks) -> list[Answered]:
    """Send every prompt once through a fresh cache of the cell."""
    budget = min(budget_of(cell.cache, requests) or requests.num_distinct, requests.num_distinct)
    cache = PrefixCache(
        budget,
        make_eviction(cell.cache.policy, budget),
        admission=cell.cache.admission,
        in_flight=cell.cache.in_flight,
    )
    store = BlockStore(model, num_slots=budget, block_tokens=requests.block_tokens)
    coming = next_uses(chains(requests.blocks, requests.starts), requests.most_hits.tolist())
    return [
        answer(
            model,
            prompt,
            chunk_tokens=cell.prefill_chunk_tokens,
            cache=cache,
            store=store,
            block_tokens=requests.block_tokens,
            next_uses=coming[number],
        )
        for number, prompt in enumerate(prompts)
    ]


def _result(scenario: PrefixBlocks, job: Job, requests: RequestBlocks, runs: list[list[list[Answered]]]) -> RunResult:
    """Return the measured result; times are medians over repeats, the last runs those without a cache."""
    full = runs[-1]
    full_s = medians(full, "ttft_s")
    entries, tables = [], []
    for number, cell in enumerate(scenario.cells):
        own = runs[number][0]
        done = Replayed(
            hits=np.array([one.num_hits for one in own]), evictions=np.array([one.num_evicted for one in own])
        )
        ttft_s = medians(runs[number], "ttft_s")
        entry = cell_of(cell, requests, done, ttft_s=ttft_s, full_s=full_s)
        entries.append(extended(entry, agreement_of(own, full[0]), cell.swept_values(scenario.sweep)))
        rows = rows_of(requests, done, ttft_s=ttft_s, full_s=full_s)
        tables.append(rows | {"processor_s": medians(runs[number], "processor_s")})
    profile = profile_of(scenario, job.base_dir)
    return make_result(
        scenario,
        job,
        cells=entries,
        rows=tables,
        verdict=verdict_of(entries, profile_kind=profile.kind, is_assumed=False),
        profile=profile,
        is_measured=True,
        extra={"requests_digest": digest_of(requests)},
    )


MEASUREMENT: Measurement[PrefixBlocks] = Measurement(measure=measure)
