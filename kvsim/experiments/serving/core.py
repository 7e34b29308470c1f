"""The deciding half of the engine, made of vLLM's knobs: scheduler, block pool and the limits of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvsim.caches.blocks import BlockPool, BlockTables, ChainTable
from kvsim.caches.tiers.offload import Offload
from kvsim.experiments.serving.knobs import EngineKnobs, SchedulingKnobs
from kvsim.policies.schedulers import Core, PlainCore, RequestTable, StepBudget, make_scheduler
from kvsim.policies.schedulers.compiled import CompiledCore
from kvsim.policies.schedulers.vllm import Vllm


def budget_of(knobs: SchedulingKnobs) -> StepBudget:
    """Return the limits of a step."""
    sequences = min(knobs.max_num_seqs, knobs.max_num_active_seqs or knobs.max_num_seqs)
    return StepBudget(tokens=knobs.max_num_batched_tokens, sequences=sequences, model_tokens=knobs.max_model_len)


def vllm_arguments(knobs: SchedulingKnobs) -> dict[str, Any]:
    """Return the arguments of our scheduler `vllm` for vLLM's own knobs."""
    return {
        "order": knobs.scheduling_policy,
        "chunked_prefill": knobs.enable_chunked_prefill,
        "long_prefill_tokens": knobs.long_prefill_token_threshold,
        "long_prefill_adaptive": knobs.long_prefill_token_threshold_adaptive,
        "watermark_frac": knobs.watermark,
        "reserve_full_prompt": knobs.scheduler_reserve_full_isl,
    }


def make_core(
    knobs: EngineKnobs,
    requests: RequestTable,
    chains: ChainTable,
    scheduler: str = "vllm",
    arguments: Mapping[str, Any] | None = None,
    *,
    compiled: bool = True,
    records_keys: bool = False,
    blocks: BlockTables | None = None,
    offload: Offload | None = None,
) -> Core:
    """Return a core for these requests.

    Parameters
    ----------
    chains
        Keys of the full blocks of each request.
    scheduler
        The name of a built-in scheduler, or ``package.module:Class``.
    arguments
        What the scheduler is made with; for `vllm` they override the workload's knobs.
    compiled
        Whether the compiled twin decides where the scheduler has one; its steps are the same.
    records_keys
        Whether the compiled twin lists the keys that were evicted and stored; the plain one always does.
    blocks, offload
        Tiers below the device, and the block tables that they know; only the plain core has tiers.
    """
    made = make_scheduler(scheduler, {**(vllm_arguments(knobs) if scheduler == "vllm" else {}), **(arguments or {})})
    budget, num_blocks, is_async = budget_of(knobs), knobs.num_gpu_blocks_override, knobs.async_scheduling
    keys = chains if knobs.enable_prefix_caching else None
    if compiled and offload is None and type(made) is Vllm:
        return CompiledCore(
            made,
            budget,
            requests,
            num_blocks=num_blocks,
            block_tokens=knobs.block_size,
            keys=keys.keys if keys else None,
            key_starts=keys.starts if keys else None,
            is_async=is_async,
            records_keys=records_keys,
        )
    tables = blocks or make_blocks(knobs, chains)
    return PlainCore(made, budget, tables, requests.requests(), is_async=is_async, offload=offload)


def make_blocks(knobs: EngineKnobs, chains: ChainTable) -> BlockTables:
    """Return the block tables of an engine that has served nothing yet."""
    keys = chains.lists() if knobs.enable_prefix_caching else None
    return BlockTables(BlockPool(knobs.num_gpu_blocks_override), knobs.block_size, keys)
