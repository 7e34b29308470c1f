"""Sends prompts to a real model through a prompt cache: restore what is shared, prefill the rest, keep the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from kvsim.caches.prompts.accounting import Keeping, Reuse
from kvsim.engine.model.first_token import FirstToken, Stopwatch, prefill_logits
from kvsim.experiments.prompt_cache.engine.cache import PromptCache
from kvsim.types import IntArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered(FirstToken):
    """The first token of one prompt; `processor_s` is that of what was computed after the transfer."""

    restore_s: float
    """Look-up and transfer; 0 without a cache."""
    keep_s: float
    """What keeping the prompt took afterwards; 0 without a cache."""
    held_tokens: int
    """Tokens that the model found in the restored cache."""
    reuse: Reuse | None = None
    keeping: Keeping | None = None

    @property
    def busy_s(self) -> float:
        """The transfer's time and what this thread computed: less than `ttft_s` where others have the processor."""
        return self.restore_s + self.processor_s


@torch.inference_mode()
def answer(model: Any, token_ids: IntArray, *, chunk_tokens: int, cache: PromptCache | None = None) -> Answered:
    """Return the first token of a prompt, computed after what `cache` holds of it, or whole where there is none."""
    watch = Stopwatch()
    reuse, held = (None, DynamicCache()) if cache is None else cache.restore(token_ids)
    done = held.get_seq_length()
    restore_s, computing = watch.passed_s(), Stopwatch()
    ids = torch.from_numpy(token_ids[done:]).unsqueeze(0)
    logits = prefill_logits(model, ids, held, chunk_tokens=chunk_tokens)
    timed = watch.stop(logits[0], computing)
    keeping_watch = Stopwatch()
    keeping = None if cache is None or reuse is None else cache.keep(token_ids, reuse, held)
    return Answered(
        **timed,
        restore_s=restore_s if cache is not None else 0.0,
        keep_s=keeping_watch.passed_s() if cache is not None else 0.0,
        held_tokens=done,
        reuse=reuse,
        keeping=keeping,
    )
