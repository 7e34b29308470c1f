"""Random requests whose schedules cover batches, chunks and contexts; no measurement serves them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

ENGINE: dict[str, Any] = {
    "block_size": 32,
    "max_model_len": 4096,
    "max_num_batched_tokens": 1024,
    "max_num_seqs": 64,
    "num_gpu_blocks_override": 2048,
    "enable_prefix_caching": True,
}
"""Parameters of vLLM that requests of a plan are served with."""

_FIRST_TOKEN, _NUM_TOKENS = 10, 40_000
"""Token ids that every vocabulary of a usual model has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Requests of one kind: so many, with lengths even in the logarithm, arriving within some steps."""

    num_requests: int
    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    num_steps: int
    """Steps of the engine over which they arrive."""


FULL = (
    Burst(num_requests=4, prompt_tokens=(300, 3000), output_tokens=(8, 60), num_steps=30),
    Burst(num_requests=64, prompt_tokens=(4, 64), output_tokens=(10, 40), num_steps=8),
    Burst(num_requests=24, prompt_tokens=(16, 400), output_tokens=(20, 160), num_steps=8),
    Burst(num_requests=1, prompt_tokens=(2000, 3500), output_tokens=(30, 60), num_steps=1),
    Burst(num_requests=20, prompt_tokens=(16, 400), output_tokens=(10, 100), num_steps=200),
)
"""Bursts of one round, in an order that changes nothing: each is served by itself.

Long prompts, many requests that decode, batches that shrink through all sizes, and arrivals beside running requests.
"""

QUICK = (
    Burst(num_requests=5, prompt_tokens=(300, 2500), output_tokens=(8, 30), num_steps=20),
    Burst(num_requests=48, prompt_tokens=(4, 48), output_tokens=(6, 16), num_steps=4),
    Burst(num_requests=16, prompt_tokens=(16, 500), output_tokens=(4, 30), num_steps=30),
)

NUM_ROUNDS = 4
"""How often all bursts are served, with other lengths and tokens: what a round is off by, others show."""


def requests_of(burst: Burst, random: np.random.Generator) -> list[dict[str, Any]]:
    """Return requests as `kvsim.engine.vllm.VllmProcess.serve` takes them, by step, in the order of their arrival."""
    prompts = _lengths(burst.prompt_tokens, burst.num_requests, random)
    outputs = _lengths(burst.output_tokens, burst.num_requests, random)
    arrivals = sorted(random.integers(0, burst.num_steps, burst.num_requests).tolist())
    return [
        {
            "id": f"r{number}",
            "token_ids": random.integers(_FIRST_TOKEN, _NUM_TOKENS, prompt).tolist(),
            "max_tokens": output,
            "arrival_step": arrival,
        }
        for number, (prompt, output, arrival) in enumerate(zip(prompts, outputs, arrivals, strict=True))
    ]


def _lengths(bounds: tuple[int, int], count: int, random: np.random.Generator) -> list[int]:
    low, high = np.log(bounds)
    lengths: list[int] = np.rint(np.exp(random.uniform(low, high, count))).astype(np.int64).tolist()
    return lengths
