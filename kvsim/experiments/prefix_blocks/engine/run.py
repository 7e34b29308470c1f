"""Sends prompts to a real model through a prefix cache: restore what was hit, prefill the rest, keep its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from kvsim.caches.prefix.cache import PrefixCache
from kvsim.engine.model.first_token import FirstToken, Stopwatch, prefill_logits
from kvsim.experiments.prefix_blocks.engine.store import BlockStore
from kvsim.traces.requests.hashing import hash_blocks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered(FirstToken):
    """The first token of one request; keeping its new blocks comes after it."""

    num_hits: int
    num_evicted: int


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
    watch = Stopwatch()
    num_hits, num_held, num_evicted = 0, 0, 0
    slots: tuple[int, ...] = ()
    held = DynamicCache(config=model.config)
    done = 0
    if cache is not None and store is not None:
        most_hits = (len(token_ids) - 1) // block_tokens
        decided = cache.request(hash_blocks(token_ids, block_tokens), next_uses, most_hits=most_hits)
        num_hits, num_held, slots = decided.num_hits, decided.num_held, decided.slots
        num_evicted = len(decided.evicted)
        done = num_hits * block_tokens
        held = store.restore(slots[:num_hits], done)
    ids = torch.from_numpy(token_ids[done:]).unsqueeze(0)
    logits = prefill_logits(model, ids, held, chunk_tokens=chunk_tokens)
    timed = watch.stop(logits[0])
    if store is not None:
        store.put(held, num_hits, slots[num_hits:num_held])
    return Answered(**timed, num_hits=num_hits, num_evicted=num_evicted)
