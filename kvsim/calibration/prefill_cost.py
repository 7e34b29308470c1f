"""Times prefill: a chunk of new tokens through the model after a number of cached ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from kvsim.calibration.fit import Sample
from kvsim.calibration.plan import Plan
from kvsim.engine.model.forward import logits_of
from kvsim.engine.model.layers import state_layers


def prefill_samples(
    model: Any, tokens: torch.Tensor, plan: Plan, *, num_layers: int, advance: Callable[[int], None]
) -> list[Sample]:
    """Return (new tokens, cached tokens, seconds) of one sequence through SDPA, scaled to `num_layers` layers.

    Parameters
    ----------
    tokens
        Random keys and values, ``[tokens, 2, num_kv_heads, head_dim]``, for the cached ones.
    """
    rng = np.random.default_rng(2)
    scale = num_layers / model.config.num_hidden_layers
    samples: list[Sample] = []
    for cached in plan.cached_tokens:
        for new in plan.prefill_tokens:
            ids = torch.from_numpy(rng.integers(0, model.config.vocab_size, (1, new))).to(model.device)
            for _ in range(plan.num_prefills):
                samples.append((new, cached, scale * call_s(model, ids, random_cache(model, tokens, cached))))
                advance(1)
    return samples


def num_prefills(plan: Plan) -> int:
    """Return how often `prefill_samples` reports an advance."""
    return len(plan.cached_tokens) * len(plan.prefill_tokens) * plan.num_prefills


def random_cache(model: Any, tokens: torch.Tensor, cached: int, batch: int = 1) -> DynamicCache:
    """Return a cache of `cached` tokens for each of `batch` sequences, all of the same random keys and values.

    Layers that hold a state begin without one: what they compute is the same.
    """
    cache = DynamicCache(config=model.config)
    states = state_layers(model.config)
    attending = [layer for layer in range(model.config.num_hidden_layers) if layer not in states]
    for place, layer in enumerate(attending if cached else []):
        part = tokens[place * cached : (place + 1) * cached].to(model.device)  # [token, 2, kv head, head_dim]
        keys, values = part.permute(1, 2, 0, 3).unsqueeze(1).expand(-1, batch, -1, -1, -1).contiguous()
        cache.update(keys, values, layer)
    return cache


def call_s(model: Any, ids: torch.Tensor, cache: DynamicCache) -> float:
    """Return the seconds of one call of the model, its next tokens read back, as generation does."""
    with torch.inference_mode():
        started_s = time.perf_counter()
        logits_of(model, ids, cache, logits_to_keep=1)[:, -1].argmax(dim=-1).cpu()
        return time.perf_counter() - started_s
