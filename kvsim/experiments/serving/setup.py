"""From a workload to the core that replays it: requests, keys of blocks, pool and scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvsim.caches.blocks import BlockPool, BlockTables, ChainKeys
from kvsim.experiments.serving.tokens import output_ids, prompt_ids
from kvsim.experiments.serving.workload import EngineKnobs, Workload
from kvsim.policies.schedulers import Core, PlainCore, Request, StepBudget, make_scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayable:
    """The requests of a workload with the identities of their tokens, as a core needs them."""

    requests: list[Request]
    outputs: list[list[int]]
    """Token ids that each request samples."""
    chains: list[list[int]]
    """Keys of the full blocks of each request's prompt and outputs."""
    key_names: list[tuple[int, int]]
    """The first request that had each key, and the block's place there."""


def prepare(workload: Workload) -> Replayable:
    """Return a workload's requests with their tokens, in the order of the file."""
    places = {request.id: place for place, request in enumerate(workload.requests)}
    ranks = {name: rank for rank, name in enumerate(sorted(places))}
    outputs = output_ids(workload)
    keys = ChainKeys(workload.engine.block_size)
    chains, requests = [], []
    arrivals = _arrival_places(workload)
    for place, request in enumerate(workload.requests):
        prompt = prompt_ids(request, outputs, places)
        chains.append(keys.add(np.concatenate([prompt, outputs[place]])))
        requests.append(
            Request(
                index=place,
                prompt_tokens=len(prompt),
                max_tokens=request.max_tokens,
                stop_tokens=len(prompt) + len(outputs[place]),
                priority=request.priority,
                arrival=arrivals[place],
                rank=ranks[request.id],
            )
        )
    return Replayable(
        requests=requests,
        outputs=[ids.tolist() for ids in outputs],
        chains=chains,
        key_names=keys.first_seen,
    )


def _arrival_places(workload: Workload) -> list[int]:
    """Return the place of each request in the order of arrival times, equal where these are equal."""
    times = [
        float(place) if request.arrival_time is None else request.arrival_time
        for place, request in enumerate(workload.requests)
    ]
    places: list[int] = np.unique(times, return_inverse=True)[1].tolist()
    return places


def budget_of(knobs: EngineKnobs) -> StepBudget:
    """Return the limits of a step."""
    sequences = min(knobs.max_num_seqs, knobs.max_num_active_seqs or knobs.max_num_seqs)
    return StepBudget(tokens=knobs.max_num_batched_tokens, sequences=sequences, model_tokens=knobs.max_model_len)


def vllm_arguments(knobs: EngineKnobs) -> dict[str, Any]:
    """Return the arguments of our scheduler `vllm` for vLLM's own knobs."""
    return {
        "order": knobs.scheduling_policy,
        "chunked_prefill": knobs.enable_chunked_prefill,
        "long_prefill_tokens": knobs.long_prefill_token_threshold,
        "long_prefill_adaptive": knobs.long_prefill_token_threshold_adaptive,
        "watermark_frac": knobs.watermark,
        "reserve_full_prompt": knobs.scheduler_reserve_full_isl,
    }


def resolved(knobs: EngineKnobs) -> dict[str, Any]:
    """Return what the knobs come to, under the names that recorded files use."""
    budget = budget_of(knobs)
    return {
        "num_blocks": knobs.num_gpu_blocks_override,
        "block_tokens": knobs.block_size,
        "prefix_caching": knobs.enable_prefix_caching,
        "max_num_batched_tokens": budget.tokens,
        "max_num_seqs": knobs.max_num_seqs,
        "max_num_active_seqs": knobs.max_num_active_seqs,
        "policy": knobs.scheduling_policy,
        "long_prefill_token_threshold": knobs.long_prefill_token_threshold,
        "long_prefill_token_threshold_adaptive": knobs.long_prefill_token_threshold_adaptive,
        "chunked_prefill": knobs.enable_chunked_prefill,
        "async_scheduling": knobs.async_scheduling,
        "max_model_len": knobs.max_model_len,
        "reserve_full_isl": knobs.scheduler_reserve_full_isl,
        "watermark": knobs.watermark,
        "watermark_blocks": int(knobs.watermark * knobs.num_gpu_blocks_override),
        "usable_blocks": knobs.num_gpu_blocks_override - 1,
    }


def make_core(
    knobs: EngineKnobs, replayable: Replayable, scheduler: str = "vllm", arguments: Mapping[str, Any] | None = None
) -> Core:
    """Return a core for these requests.

    Parameters
    ----------
    scheduler
        The name of a built-in scheduler, or ``package.module:Class``.
    arguments
        What the scheduler is made with; for `vllm` they override the workload's knobs.
    """
    chosen = {**(vllm_arguments(knobs) if scheduler == "vllm" else {}), **(arguments or {})}
    chains = replayable.chains if knobs.enable_prefix_caching else None
    blocks = BlockTables(BlockPool(knobs.num_gpu_blocks_override), knobs.block_size, chains)
    return PlainCore(
        make_scheduler(scheduler, chosen),
        budget_of(knobs),
        blocks,
        replayable.requests,
        is_async=knobs.async_scheduling,
    )
