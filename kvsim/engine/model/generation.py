"""Greedy generation with and without transformers' KV cache, timed token by token, and the memory that it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile
from transformers import DynamicCache

from kvsim.engine.model.forward import logits_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One run of generation."""

    token_ids: NDArray[np.int64]
    """``[num_sequences, new_tokens]``."""
    step_s: NDArray[np.float64]
    """Seconds of each token, ``[new_tokens]``; the first has the prompt's."""
    kv_bytes: int
    """Bytes that the cache's tensors hold at the end."""
    computed_tokens: int
    """Tokens that went through the model, counted where they went in."""


def generate(
    model: Any,
    prompt_ids: NDArray[np.int64],
    new_tokens: int,
    *,
    use_cache: bool,
    progress: Callable[[float], None] | None = None,
) -> Generated:
    """Generate greedily after `prompt_ids`, ``[num_sequences, prompt_tokens]``; with no cache all is read each time."""
    cache = DynamicCache(config=model.config) if use_cache else None
    ids = torch.from_numpy(prompt_ids).to(model.device)
    fed, computed, step_s = ids, 0, []
    chosen: list[torch.Tensor] = []
    with torch.inference_mode():
        for _ in range(new_tokens):
            started_s = time.perf_counter()
            computed += fed.numel()
            token = _token_after(model, fed, cache)
            chosen.append(token.cpu())
            step_s.append(time.perf_counter() - started_s)
            if not use_cache:
                ids = torch.cat((ids, token), dim=1)
            fed = token if use_cache else ids
            if progress is not None:
                progress(1 / new_tokens)
    return Generated(
        token_ids=torch.cat(chosen, dim=1).numpy(),
        step_s=np.array(step_s),
        kv_bytes=_cache_bytes(cache),
        computed_tokens=computed,
    )


def use_threads(num_threads: int) -> None:
    """Let torch compute on so many threads."""
    torch.set_num_threads(num_threads)


def peak_bytes(model: Any, prompt_ids: NDArray[np.int64], new_tokens: int, *, use_cache: bool) -> int:
    """Return the most bytes of tensors that generating so takes besides the weights.

    On a GPU torch's allocator reports it, over the whole generation. On the CPU torch's profiler reports every tensor's
    memory: of the longest pass without a cache, of the prompt's and the last pass with one. Libraries' own scratch
    memory is no tensor and is not counted.
    """
    if model.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        generate(model, prompt_ids, new_tokens, use_cache=use_cache)
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    ids = torch.from_numpy(prompt_ids)
    if not use_cache:
        longest = torch.cat((ids, ids[:, :1].expand(-1, new_tokens - 1)), dim=1)
        return longest.nbytes + _traced_bytes(lambda: _token_after(model, longest, None))
    cache = DynamicCache(config=model.config)
    in_prompt = _traced_bytes(lambda: _token_after(model, ids, cache))
    for _ in range(1, new_tokens - 1):
        _token_after(model, ids[:, :1], cache)
    made_before = [(layer.keys, layer.values) for layer in cast(list[Any], cache.layers)]

    def last_step() -> None:
        for layer, (keys, values) in zip(cast(list[Any], cache.layers), made_before, strict=True):
            layer.keys, layer.values = keys.clone(), values.clone()  # the profiler knows only of what it saw made
        _token_after(model, ids[:, :1], cache)

    return ids.nbytes + (in_prompt if new_tokens == 1 else max(in_prompt, _traced_bytes(last_step)))


def _token_after(model: Any, ids: torch.Tensor, cache: DynamicCache | None) -> torch.Tensor:
    """Return the likeliest next token of each sequence, ``[num_sequences, 1]``."""
    with torch.inference_mode():
        logits = logits_of(model, ids, cache, logits_to_keep=1)
        token: torch.Tensor = logits[:, -1].argmax(dim=-1, keepdim=True)
        return token


def _traced_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes of tensors on the CPU that were alive at once, beyond those alive before."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler prints its start and stop on stderr otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as traced:
        work()
    assert traced.profiler is not None and traced.profiler.kineto_results is not None
    events = [event for event in traced.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(0, int(np.cumsum([event.nbytes() for event in events]).max(initial=0)))


def _cache_bytes(cache: DynamicCache | None) -> int:
    layers: list[Any] = cache.layers if cache is not None else []
    return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)
