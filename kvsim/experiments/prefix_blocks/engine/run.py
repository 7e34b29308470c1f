"""Sends prompts to a real model through a prefix cache: restore what was hit, prefill the rest, keep its blocks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from kvsim.caches.prefix.cache import PrefixCache
from kvsim.engine.model.forward import logits_of
from kvsim.experiments.prefix_blocks.engine.store import BlockStore
from kvsim.traces.requests.hashing import hash_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The first token of one request."""

    ttft_s: float
    """From the prompt's tokens to the first token, lookup and restoring included, keeping the new blocks not."""
    processor_s: float
    """What this thread computed of it; less than `ttft_s` where others have the processor, or a device works."""
    logits: torch.Tensor
    """Of the first token, ``[vocab_size]``, in fp32."""
    num_hits: int
    num_evicted: int


def use_threads(num_threads: int) -> None:
    """Let torch compute with so many threads."""
    torch.set_num_threads(num_threads)


def answer(
    model: Any,
    token_ids: NDArray[Any],
    *,
    chunk_tokens: int,
    cache: PrefixCache | None = None,
    store: BlockStore | None = None,
    block_tokens: int = 16,
    next_uses: Sequence[int] | None = None,
) -> Answered:
    """Return the first token of a prompt, computed through a prefix cache, or whole where there is none.

    A prompt that is found to its end computes its last block again, as in vLLM, for the logits of its last token.
    """
    started_s, computed_s = time.perf_counter(), time.thread_time()
    num_hits, num_kept, num_evicted = 0, 0, 0
    slots: tuple[int, ...] = ()
    held = DynamicCache(config=model.config)
    done = 0
    if cache is not None and store is not None:
        most_hits = (len(token_ids) - 1) // block_tokens
        decided = cache.request(hash_blocks(token_ids, block_tokens), next_uses, most_hits=most_hits)
        num_hits, num_kept, slots = decided.num_hits, decided.num_kept, decided.slots
        num_evicted = len(decided.evicted)
        done = num_hits * block_tokens
        held = store.restore(slots[:num_hits], done)
    ids = torch.from_numpy(token_ids).to(model.device).unsqueeze(0)
    logits = None
    with torch.inference_mode():
        for start in range(done, len(token_ids), chunk_tokens):
            chunk = ids[:, start : start + chunk_tokens]
            logits = logits_of(model, chunk, held, logits_to_keep=1)[0, -1]
        assert logits is not None
        logits.argmax().item()  # the first token is there: a device has caught up
    ttft_s, processor_s = time.perf_counter() - started_s, time.thread_time() - computed_s
    if store is not None:
        store.put(held, num_hits, slots[num_hits:num_kept])
    return Answered(
        ttft_s=ttft_s,
        processor_s=processor_s,
        logits=logits.float().cpu(),
        num_hits=num_hits,
        num_evicted=num_evicted,
    )
