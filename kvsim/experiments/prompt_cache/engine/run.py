"""Sends prompts to a real model through a prompt cache: restore what is shared, prefill the rest, keep the prompt."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from kvsim.caches.prompts.accounting import Keeping, Reuse
from kvsim.engine.model.forward import logits_of
from kvsim.experiments.prompt_cache.engine.cache import PromptCache
from kvsim.types import IntArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """The first token of one prompt."""

    ttft_s: float
    """From the prompt's tokens to the first token, look-up and transfer included."""
    busy_s: float
    """The transfer's time and what this thread computed: less than `ttft_s` where others have the processor."""
    restore_s: float
    """Look-up and transfer; 0 without a cache."""
    keep_s: float
    """What keeping the prompt took afterwards; 0 without a cache."""
    logits: torch.Tensor
    """Of the first token, ``[vocab_size]``, in fp32."""
    held_tokens: int
    """Tokens that the model found in the restored cache."""
    reuse: Reuse | None = None
    keeping: Keeping | None = None


@torch.inference_mode()
def answer(model: Any, token_ids: IntArray, *, chunk_tokens: int, cache: PromptCache | None = None) -> Answered:
    """Return the first token of a prompt, computed after what `cache` holds of it, or whole where there is none."""
    started_s = time.perf_counter()
    reuse, held = (None, DynamicCache()) if cache is None else cache.restore(token_ids)
    done = held.get_seq_length()
    restored_s, computed_s = time.perf_counter(), time.thread_time()
    ids = torch.from_numpy(token_ids[done:]).to(model.device).unsqueeze(0)
    logits = None
    for start in range(0, ids.shape[1], chunk_tokens):
        chunk = ids[:, start : start + chunk_tokens]
        logits = logits_of(model, chunk, held, logits_to_keep=1)[0, -1]
    assert logits is not None, "a prompt of no tokens, or one that was reused to its end"
    logits.argmax().item()  # the first token is there: a device has caught up
    ended_s, computed_s = time.perf_counter(), time.thread_time() - computed_s
    keeping = None if cache is None or reuse is None else cache.keep(token_ids, reuse, held)
    return Answered(
        ttft_s=ended_s - started_s,
        busy_s=restored_s - started_s + computed_s,
        restore_s=restored_s - started_s if cache is not None else 0.0,
        keep_s=time.perf_counter() - ended_s if cache is not None else 0.0,
        logits=logits.float().cpu(),
        held_tokens=done,
        reuse=reuse,
        keeping=keeping,
    )
