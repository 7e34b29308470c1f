"""Times calls of the model through transformers' own cache: prefill in chunks, and calls of every batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from kvsim.calibration.fit import Sample, fit_table
from kvsim.calibration.plan import Plan
from kvsim.engine.model.forward import logits_of
from kvsim.engine.model.layers import state_layers
from kvsim.profile.tables import CostTable


def prefill_samples(
    model: Any, tokens: torch.Tensor, plan: Plan, *, num_layers: int, advance: Callable[[int], None]
) -> list[Sample]:
    """Return (new tokens, cached tokens, seconds) of one sequence through SDPA, scaled to `num_layers` layers.

    Parameters
    ----------
    tokens
        Random keys and values, ``[tokens, 2, num_kv_heads, head_dim]``, for the cached ones.
    """
    sizes = plan.prefill_tokens, plan.cached_tokens
    return _samples(model, tokens, *sizes, num_calls=plan.num_prefills, seed=2, num_layers=num_layers, advance=advance)


def num_prefills(plan: Plan) -> int:
    """Return how often `prefill_samples` reports an advance."""
    return len(plan.cached_tokens) * len(plan.prefill_tokens) * plan.num_prefills


def cache_tables(
    model: Any,
    tokens: torch.Tensor,
    plan: Plan,
    *,
    num_layers: int,
    make_advance: Callable[[str, int], Callable[[int], None]],
) -> dict[str, CostTable]:
    """Return the tables of `Profile.caches`: calls on each batch, the first one of each size not counted.

    Parameters
    ----------
    tokens
        Random keys and values, ``[tokens, 2, num_kv_heads, head_dim]``, for what is cached.
    num_layers
        Layers of the whole model, where `model` has a few that stand for all.
    make_advance
        Returns what counts the calls of a stage, from its name and their number.
    """
    sizes = plan.forward_new_tokens, plan.forward_cached_tokens
    total = len(plan.batches) * len(sizes[0]) * len(sizes[1]) * (plan.num_forwards + 1)
    advance = make_advance("other caches", total)
    timed = partial(
        _samples, model, tokens, *sizes, num_calls=plan.num_forwards, num_warmups=1, seed=3, num_layers=num_layers
    )
    return {
        f"forward@{batch}": fit_table(timed(batch=batch, advance=advance), "tokens", "cached_tokens")
        for batch in plan.batches
    }


def random_cache(model: Any, tokens: torch.Tensor, cached: int, batch: int) -> DynamicCache:
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


def _samples(
    model: Any,
    tokens: torch.Tensor,
    new_tokens: Sequence[int],
    cached_tokens: Sequence[int],
    *,
    batch: int = 1,
    num_calls: int,
    num_warmups: int = 0,
    seed: int,
    num_layers: int,
    advance: Callable[[int], None],
) -> list[Sample]:
    rng = np.random.default_rng(seed)
    scale = num_layers / model.config.num_hidden_layers
    samples: list[Sample] = []
    for cached in cached_tokens:
        for new in new_tokens:
            ids = torch.from_numpy(rng.integers(0, model.config.vocab_size, (batch, new))).to(model.device)
            for call in range(num_warmups + num_calls):
                time_s = _call_s(model, ids, random_cache(model, tokens, cached, batch))
                if call >= num_warmups:
                    samples.append((new, cached, scale * time_s))
                advance(1)
    return samples


def _call_s(model: Any, ids: torch.Tensor, cache: DynamicCache) -> float:
    """Return the seconds of one call of the model, its next tokens read back, as generation does."""
    with torch.inference_mode():
        started_s = time.perf_counter()
        logits_of(model, ids, cache, logits_to_keep=1)[:, -1].argmax(dim=-1).cpu()
        return time.perf_counter() - started_s
