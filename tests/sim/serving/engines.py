"""Small engines in simulated time, given by the lengths of their requests and a few costs."""

from __future__ import annotations

import numpy as np

from kvsim.caches.blocks import BlockPool, BlockTables
from kvsim.policies.schedulers import Core, PlainCore, RequestTable, Scheduler, StepBudget
from kvsim.policies.schedulers.compiled import CompiledCore
from kvsim.policies.schedulers.vllm import Vllm
from kvsim.profile.serving import ServingCosts
from kvsim.profile.tables import CostTable
from kvsim.sim.serving import Served, Sessions, StepCosts, simulate_serving

BLOCK_TOKENS = 16


def linear(amount: str, fixed_s: float, each_s: float) -> CostTable:
    """Return a table that is linear from 0 on."""
    return CostTable(amount=amount, amounts=(0.0, 1e6), time_s=((fixed_s,), (fixed_s + 1e6 * each_s,)))


def costs(
    *, step_s: float = 0.0, token_s: float = 0.0, key_s: float = 0.0, pair_s: float = 0.0, host_s: float = 0.0, **fields
) -> ServingCosts:
    """Return costs of so much a step, a token, a key, a pair, and for the host a request."""
    return ServingCosts(
        engine="test",
        host=linear("requests", 0.0, host_s),
        tokens=linear("tokens", step_s, token_s),
        keys=linear("keys", 0.0, key_s),
        pairs=linear("pairs", 0.0, pair_s),
        sampled=linear("requests", 0.0, 0.0),
        **fields,
    )


def table(lengths: list[tuple[int, int]], *, unused_tokens: int = 0) -> RequestTable:
    """Return requests of these prompts and outputs, which end so many tokens before they must."""
    prompts, outputs = (np.array(column, dtype=np.int64) for column in zip(*lengths, strict=True))
    places = np.arange(prompts.size)
    return RequestTable(
        prompt_tokens=prompts,
        max_tokens=outputs + unused_tokens,
        stop_tokens=prompts + outputs,
        priority=0 * places,
        arrival=places,
        rank=places,
    )


def make_core(
    lengths: list[tuple[int, int]],
    *,
    num_blocks: int = 4096,
    tokens: int = 2048,
    sequences: int = 64,
    is_async: bool = False,
    scheduler: Scheduler | None = None,
    unused_tokens: int = 0,
) -> Core:
    """Return a core without prefix caching; the compiled one unless a scheduler is given."""
    requests = table(lengths, unused_tokens=unused_tokens)
    budget = StepBudget(tokens=tokens, sequences=sequences, model_tokens=8192)
    if scheduler is not None:
        blocks = BlockTables(BlockPool(num_blocks), BLOCK_TOKENS, None)
        return PlainCore(scheduler, budget, blocks, requests.requests(), is_async=is_async)
    return CompiledCore(Vllm(), budget, requests, num_blocks=num_blocks, block_tokens=BLOCK_TOKENS, is_async=is_async)


def open_sessions(arrival_s) -> Sessions:
    """Return sessions of one request each, at these times."""
    count = len(arrival_s)
    return Sessions(first=np.arange(count + 1), start_s=np.array(arrival_s, dtype=float), pause_s=np.zeros(count))


def serve(lengths: list[tuple[int, int]], arrival_s, serving_costs: ServingCosts, **engine) -> Served:
    """Serve requests that arrive at these times."""
    core = make_core(lengths, **engine)
    is_async = engine.get("is_async", False)
    return simulate_serving(core, open_sessions(arrival_s), StepCosts(serving_costs), is_async=is_async)
