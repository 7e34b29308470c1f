"""Times what the other caches of an LLM cost: calls of the model through transformers' own cache, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kvsim.calibration.fit import Sample, fit_table
from kvsim.calibration.plan import Plan
from kvsim.calibration.prefill_cost import call_s, random_cache
from kvsim.profile.tables import CostTable


def cache_tables(
    model: Any,
    tokens: torch.Tensor,
    plan: Plan,
    *,
    num_layers: int,
    make_advance: Callable[[str, int], Callable[[int], None]],
) -> dict[str, CostTable]:
    """Return the tables of `Profile.caches`.

    Parameters
    ----------
    tokens
        Random keys and values, ``[tokens, 2, num_kv_heads, head_dim]``, for what is cached.
    num_layers
        Layers of the whole model, where `model` has a few that stand for all.
    make_advance
        Returns what counts the calls of a stage, from its name and their number.
    """
    total = len(plan.batches) * len(plan.forward_new_tokens) * len(plan.forward_cached_tokens) * (plan.num_forwards + 1)
    advance = make_advance("other caches", total)
    return {
        f"forward@{batch}": fit_table(
            forward_samples(model, tokens, plan, batch, num_layers, advance), "tokens", "cached_tokens"
        )
        for batch in plan.batches
    }


def forward_samples(
    model: Any, tokens: torch.Tensor, plan: Plan, batch: int, num_layers: int, advance: Callable[[int], None]
) -> list[Sample]:
    """Return (new tokens, cached tokens, seconds) of one call on a batch; the first call of each size is not counted.

    A step reads its chosen token back, as generation does.
    """
    rng = np.random.default_rng(3)
    scale = num_layers / model.config.num_hidden_layers
    samples: list[Sample] = []
    for cached in plan.forward_cached_tokens:
        for new in plan.forward_new_tokens:
            ids = torch.from_numpy(rng.integers(0, model.config.vocab_size, (batch, new))).to(model.device)
            for attempt in range(plan.num_forwards + 1):
                time_s = call_s(model, ids, random_cache(model, tokens, cached, batch))
                if attempt:
                    samples.append((new, cached, scale * time_s))
                advance(1)
    return samples
