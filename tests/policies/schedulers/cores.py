"""Cores for a handful of requests, given by the lengths of their prompts and outputs."""

from __future__ import annotations

from hypothesis import strategies as st

from kvsim.caches.blocks import BlockPool, BlockTables
from kvsim.policies.schedulers import PlainCore, Request, Scheduler, StepBudget

BLOCK_TOKENS = 4
LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 12)), min_size=1, max_size=8)
LONGEST_BLOCKS = -(-(30 + 12 - 1) // BLOCK_TOKENS)


def make_core(
    scheduler: Scheduler,
    lengths: list[tuple[int, int]],
    *,
    num_blocks: int = 100,
    tokens: int = 64,
    sequences: int = 8,
    chains: list[list[int]] | None = None,
    is_async: bool = False,
    **fields: list[int],
) -> PlainCore:
    """Return a core with all requests added, each of ``(prompt_tokens, output_tokens)``."""
    requests = [
        Request(
            index=index,
            prompt_tokens=prompt,
            max_tokens=outputs,
            stop_tokens=prompt + outputs,
            arrival=index,
            **{name: values[index] for name, values in fields.items()},
        )
        for index, (prompt, outputs) in enumerate(lengths)
    ]
    tables = BlockTables(BlockPool(num_blocks), BLOCK_TOKENS, chains)
    budget = StepBudget(tokens=tokens, sequences=sequences, model_tokens=10_000)
    core = PlainCore(scheduler, budget, tables, requests, is_async=is_async)
    for request in requests:
        core.add(request.index)
    return core


def run(core: PlainCore) -> list[dict[int, int]]:
    """Return the batches of all steps until every request is finished."""
    batches = []
    while core.num_unfinished:
        batches.append(dict(core.schedule().scheduled))
        core.update()
        core.state.blocks._check()
    return batches
