"""The first token of a prompt for real: prefill in chunks, its time, and how far two such tokens lie apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch

from kvsim.engine.model.forward import logits_of
from kvsim.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstToken:
    """The first token of one prompt."""

    ttft_s: float
    """From the prompt's tokens to the first token: looking up, bringing back, computing."""
    processor_s: float
    """What this thread computed of it; less than `ttft_s` where others have the processor, or a device works."""
    logits: torch.Tensor
    """Of the first token, ``[vocab_size]``, in fp32."""


class Timed(TypedDict):
    """The fields of a `FirstToken`."""

    ttft_s: float
    processor_s: float
    logits: torch.Tensor


class Stopwatch:
    """Wall time and this thread's processor time, from when it was made."""

    def __init__(self) -> None:
        self._started_s, self._computed_s = time.perf_counter(), time.thread_time()

    def passed_s(self) -> float:
        """Return the wall time so far."""
        return time.perf_counter() - self._started_s

    def stop(self, logits: torch.Tensor, computing: Stopwatch | None = None) -> Timed:
        """Return the fields of a `FirstToken` once it is there, from the logits of one sequence.

        Processor time is that since `computing` was made, where it is given.
        """
        logits.argmax().item()  # a device has caught up
        ttft_s, processor_s = self.passed_s(), time.thread_time() - (computing or self)._computed_s
        return {"ttft_s": ttft_s, "processor_s": processor_s, "logits": logits.float().cpu()}


def prefill_logits(
    model: Any,
    ids: torch.Tensor,
    cache: Any,
    *,
    chunk_tokens: int,
    positions: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Compute tokens chunk by chunk into `cache`; return the logits of the last ones, ``[num_sequences, vocab_size]``.

    Parameters
    ----------
    ids
        ``[num_sequences, tokens]``, one token at least.
    positions
        Where they stand, as `ids`; behind what the cache holds, where absent.
    mask
        What they see of the cache and each other, ``[1, 1, tokens, cached + tokens]``, or which tokens are no padding,
        ``[num_sequences, cached + tokens]``; all before, where absent.
    progress
        Called with the tokens of each chunk done.
    """
    num_tokens, cached = ids.shape[1], cache.get_seq_length()
    logits = None
    with torch.inference_mode():
        for start in range(0, num_tokens, chunk_tokens):
            chunk = slice(start, min(start + chunk_tokens, num_tokens))
            options: dict[str, Any] = {"logits_to_keep": 1}
            if positions is not None:
                options["position_ids"] = positions[:, chunk]
            if mask is not None:
                seen = mask if mask.ndim == 2 else mask[:, :, chunk]
                options["attention_mask"] = seen[..., : cached + chunk.stop]
            logits = logits_of(model, ids[:, chunk].to(model.device), cache, **options)[:, -1]
            if progress is not None:
                progress(chunk.stop - chunk.start)
    assert logits is not None, "no tokens to compute"
    return logits


def medians(runs: Sequence[Sequence[Any]], name: str) -> FloatArray:
    """Return the median over runs of one time of every prompt, ``[num_prompts]``."""
    per_prompt: FloatArray = np.median([[getattr(token, name) for token in run] for run in runs], axis=0)
    return per_prompt


def agreement_of(tokens: Sequence[FirstToken], others: Sequence[FirstToken]) -> dict[str, float]:
    """Return in which share of the prompts two ways of reading choose the same token, and how far logits lie apart."""
    pairs = [(token.logits, other.logits) for token, other in zip(tokens, others, strict=True)]
    return {
        "next_token_agreement_frac": float(np.mean([int(a.argmax()) == int(b.argmax()) for a, b in pairs])),
        "max_logit_difference": max(float((a - b).abs().max()) for a, b in pairs),
    }
