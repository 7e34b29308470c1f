"""The parameters of vLLM that a schedule is a function of, under vLLM's own names."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from kvsim.scenario.toml import Strict

Count: TypeAlias = Annotated[int, Field(ge=1)]
Whole: TypeAlias = Annotated[int, Field(ge=0)]


class SchedulingParameters(Strict):
    """All parameters but the size of the pool.

    The first four have no default here because vLLM's own depend on the machine. `async_scheduling` is off unless it is
    switched on, on every machine.
    """

    block_size: Count
    max_model_len: Annotated[int, Field(ge=2)]
    max_num_batched_tokens: Count
    max_num_seqs: Count
    max_num_active_seqs: Count | None = None
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: Whole = 0
    long_prefill_token_threshold_adaptive: bool = False
    watermark: Annotated[float, Field(ge=0, lt=1)] = 0.0
    scheduler_reserve_full_isl: bool = True
    async_scheduling: bool = False

    @model_validator(mode="after")
    def _check_budget(self) -> SchedulingParameters:
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"without chunked prefill max_num_batched_tokens = {self.max_num_batched_tokens} must be at least "
                f"max_model_len = {self.max_model_len}"
            )
        return self

    @property
    def least_blocks(self) -> int:
        """Blocks of the smallest pool that vLLM starts with: one request of `max_model_len`, and the null block."""
        return -(-self.max_model_len // self.block_size) + 1


class EngineParameters(SchedulingParameters):
    """All parameters."""

    num_gpu_blocks_override: Annotated[int, Field(ge=2)]
    """Blocks of the pool, the null block included."""
    kv_cache_memory_bytes: Count | None = None
    """Accepted and not used: `num_gpu_blocks_override` wins, as in vLLM."""

    @model_validator(mode="after")
    def _check_pool(self) -> EngineParameters:
        if self.num_gpu_blocks_override < self.least_blocks:
            raise ValueError(
                f"num_gpu_blocks_override = {self.num_gpu_blocks_override} leaves {self.num_gpu_blocks_override - 1} "
                f"blocks, which do not hold one request of max_model_len = {self.max_model_len}: give "
                f"{self.least_blocks} or more"
            )
        return self
