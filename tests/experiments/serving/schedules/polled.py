"""Tiers as they were recorded of vLLM: a host link that ends a transfer at its n-th poll, one poll a step."""

from __future__ import annotations

from typing import Any

from kvsim.caches.blocks import BlockPool, BlockTables
from kvsim.caches.tiers import ChunkCache
from kvsim.caches.tiers.offload import Offload, Transfer
from kvsim.experiments.serving.core import budget_of, vllm_arguments
from kvsim.experiments.serving.schedules.prepare import prepare
from kvsim.experiments.serving.schedules.workload import Workload
from kvsim.policies.schedulers import PlainCore
from kvsim.policies.schedulers.vllm import Vllm


class PolledCore(PlainCore):
    """A core whose transfers are carried out step by step, without a clock."""

    def __init__(self, *arguments: Any, polls: int, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._polls = polls
        self._left: dict[Transfer, int] = {}
        self._stores: list[Transfer] = []
        self.log: list[tuple[str, int]] = []

    def schedule(self):
        step = super().schedule()
        new, flushed = self.offload.take_new()
        loads = [transfer for transfer in new if transfer.kind == "load"]
        for transfer in (*self._stores, *loads):
            self._left[transfer] = self._polls
            self.log.append((transfer.kind, len(transfer.chunks)))
        self._stores = [transfer for transfer in new if transfer.kind == "store"]
        for transfer in flushed & self._left.keys():
            self._left[transfer] = 0
        return step

    def update(self):
        for transfer in list(self._left):
            self._left[transfer] -= 1
            if self._left[transfer] <= 0:
                del self._left[transfer]
                self.offload.arrived(transfer)
        return super().update()


def core_of(workload: Workload, tier: dict[str, Any], **parts: Any) -> tuple[PolledCore, Any]:
    """Return a core with the tier that a recording had, and its requests."""
    parameters, replayable = workload.engine, prepare(workload)
    chains = replayable.chains.lists()
    blocks = BlockTables(BlockPool(parameters.num_gpu_blocks_override), parameters.block_size, chains)
    cache = parts.get("cache", ChunkCache)(tier["host_chunks"], tier["order"])
    offload = parts.get("offload", Offload)(blocks, chains, chunk_blocks=tier["chunk_blocks"], host=cache)
    core = PolledCore(
        parts.get("scheduler", Vllm)(**vllm_arguments(parameters)),
        budget_of(parameters),
        blocks,
        replayable.requests.requests(),
        offload=offload,
        polls=tier["polls"],
    )
    return core, replayable
