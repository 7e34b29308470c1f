"""The schedules that vLLM 0.32.0 was recorded with, and cores with one of their parts exchanged."""

from __future__ import annotations

from pathlib import Path

from kvsim.caches.blocks import BlockPool, BlockTables
from kvsim.experiments.serving.core import budget_of, vllm_arguments
from kvsim.experiments.serving.schedules.compare import first_difference
from kvsim.experiments.serving.schedules.prepare import prepare
from kvsim.experiments.serving.schedules.replay import drive
from kvsim.experiments.serving.schedules.workload import Workload, read_workload
from kvsim.policies.schedulers import PlainCore
from kvsim.policies.schedulers.vllm import Vllm

FOLDER = Path(__file__).parent / "vllm-0.32.0"
NAMES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*.json.gz"))


def load(name: str) -> Workload:
    return read_workload(FOLDER / f"{name}.json.gz")


def difference_with(
    workload: Workload,
    *,
    scheduler: type[Vllm] = Vllm,
    tables: type[BlockTables] = BlockTables,
    pool: type[BlockPool] = BlockPool,
) -> str | None:
    """Return where a core of these parts leaves the recorded schedule."""
    parameters, replayable = workload.engine, prepare(workload)
    chains = replayable.chains.lists() if parameters.enable_prefix_caching else None
    core = PlainCore(
        scheduler(**vllm_arguments(parameters)),
        budget_of(parameters),
        tables(pool(parameters.num_gpu_blocks_override), parameters.block_size, chains),
        replayable.requests.requests(),
        is_async=parameters.async_scheduling,
    )
    return first_difference(workload, drive(core, workload, replayable))
