"""The deciding half of the engine, made of vLLM's parameters: scheduler, block pool and the limits of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvsim.caches.blocks import BlockPool, BlockTables, ChainTable
from kvsim.caches.tiers.offload import Offload
from kvsim.experiments.serving.parameters import EngineParameters, SchedulingParameters
from kvsim.policies.schedulers import Core, PlainCore, RequestTable, StepBudget, make_scheduler
from kvsim.policies.schedulers.compiled import CompiledCore
from kvsim.policies.schedulers.vllm import Vllm


def budget_of(parameters: SchedulingParameters) -> StepBudget:
    """Return the limits of a step."""
    sequences = min(parameters.max_num_seqs, parameters.max_num_active_seqs or parameters.max_num_seqs)
    return StepBudget(
        tokens=parameters.max_num_batched_tokens, sequences=sequences, model_tokens=parameters.max_model_len
    )


def vllm_arguments(parameters: SchedulingParameters) -> dict[str, Any]:
    """Return the arguments of our scheduler `vllm` for vLLM's own parameters."""
    return {
        "order": parameters.scheduling_policy,
        "chunked_prefill": parameters.enable_chunked_prefill,
        "long_prefill_tokens": parameters.long_prefill_token_threshold,
        "long_prefill_adaptive": parameters.long_prefill_token_threshold_adaptive,
        "watermark_frac": parameters.watermark,
        "reserve_full_prompt": parameters.scheduler_reserve_full_isl,
    }


def make_core(
    parameters: EngineParameters,
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
        What the scheduler is made with; for `vllm` they override the workload's parameters.
    compiled
        Whether the compiled twin decides where the scheduler has one; its steps are the same.
    records_keys
        Whether the compiled twin lists the keys that were evicted and stored; the plain one always does.
    blocks, offload
        Tiers below the device, and the block tables that they know; only the plain core has tiers.
    """
    own = vllm_arguments(parameters) if scheduler == "vllm" else {}
    made = make_scheduler(scheduler, own | dict(arguments or {}))
    budget, is_async = budget_of(parameters), parameters.async_scheduling
    keys = chains if parameters.enable_prefix_caching else None
    if compiled and offload is None and type(made) is Vllm:
        return CompiledCore(
            made,
            budget,
            requests,
            num_blocks=parameters.num_gpu_blocks_override,
            block_tokens=parameters.block_size,
            keys=keys.keys if keys else None,
            key_starts=keys.starts if keys else None,
            is_async=is_async,
            records_keys=records_keys,
        )
    tables = blocks or make_blocks(parameters, chains)
    return PlainCore(made, budget, tables, requests.requests(), is_async=is_async, offload=offload)


def make_blocks(parameters: EngineParameters, chains: ChainTable) -> BlockTables:
    """Return the block tables of an engine that has served nothing yet."""
    keys = chains.lists() if parameters.enable_prefix_caching else None
    return BlockTables(BlockPool(parameters.num_gpu_blocks_override), parameters.block_size, keys)
