"""From a workload to what a core replays: requests with their tokens, and the keys of their blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvsim.caches.blocks import ChainKeys, ChainTable
from kvsim.experiments.serving.core import budget_of
from kvsim.experiments.serving.parameters import EngineParameters
from kvsim.experiments.serving.schedules.tokens import output_ids, prompt_ids
from kvsim.experiments.serving.schedules.workload import Workload
from kvsim.policies.schedulers import RequestTable
from kvsim.types import IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayable:
    """The requests of a workload with the identities of their tokens, as a core needs them."""

    requests: RequestTable
    outputs: list[list[int]]
    """Token ids that each request samples."""
    chains: ChainTable
    """Keys of the full blocks of each request's prompt and outputs."""
    key_names: list[tuple[int, int]]
    """The first request that had each key, and the block's place there."""


def prepare(workload: Workload) -> Replayable:
    """Return a workload's requests with their tokens, in the order of the file."""
    names = [request.id for request in workload.requests]
    places = {name: place for place, name in enumerate(names)}
    outputs = output_ids(workload)
    prompts = [prompt_ids(request, outputs, places) for request in workload.requests]
    keys = ChainKeys(workload.engine.block_size)
    chains = [keys.add(np.concatenate(texts)) for texts in zip(prompts, outputs, strict=True)]
    prompt_tokens, output_tokens = (np.array([len(ids) for ids in texts]) for texts in (prompts, outputs))
    requests = RequestTable(
        prompt_tokens=prompt_tokens,
        max_tokens=np.array([request.max_tokens for request in workload.requests]),
        stop_tokens=prompt_tokens + output_tokens,
        priority=np.array([request.priority for request in workload.requests]),
        arrival=_arrival_places(workload),
        rank=np.argsort(np.argsort(np.array(names, dtype=object))),
    )
    return Replayable(
        requests=requests,
        outputs=[ids.tolist() for ids in outputs],
        chains=ChainTable.of(chains),
        key_names=keys.first_seen,
    )


def _arrival_places(workload: Workload) -> IntArray:
    """Return the place of each request in the order of arrival times, equal where these are equal."""
    times = [
        float(place) if request.arrival_time is None else request.arrival_time
        for place, request in enumerate(workload.requests)
    ]
    places: IntArray = np.unique(times, return_inverse=True)[1]
    return places


def resolved(parameters: EngineParameters) -> dict[str, Any]:
    """Return what the parameters come to, under the names that recorded files use."""
    budget = budget_of(parameters)
    return {
        "num_blocks": parameters.num_gpu_blocks_override,
        "block_tokens": parameters.block_size,
        "prefix_caching": parameters.enable_prefix_caching,
        "max_num_batched_tokens": budget.tokens,
        "max_num_seqs": parameters.max_num_seqs,
        "max_num_active_seqs": parameters.max_num_active_seqs,
        "policy": parameters.scheduling_policy,
        "long_prefill_token_threshold": parameters.long_prefill_token_threshold,
        "long_prefill_token_threshold_adaptive": parameters.long_prefill_token_threshold_adaptive,
        "chunked_prefill": parameters.enable_chunked_prefill,
        "async_scheduling": parameters.async_scheduling,
        "max_model_len": parameters.max_model_len,
        "reserve_full_isl": parameters.scheduler_reserve_full_isl,
        "watermark": parameters.watermark,
        "watermark_blocks": int(parameters.watermark * parameters.num_gpu_blocks_override),
        "usable_blocks": parameters.num_gpu_blocks_override - 1,
    }
