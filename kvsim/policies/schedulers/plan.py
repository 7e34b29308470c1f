"""What a scheduler may spend in a step, and what it decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from kvsim.policies.schedulers.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBudget:
    """The limits of every step."""

    tokens: int
    """Most tokens of one forward pass (``max_num_batched_tokens``)."""
    sequences: int
    """Most requests that run at a time (``max_num_seqs``, or ``max_num_active_seqs`` where that is lower)."""
    model_tokens: int
    """The longest sequence (``max_model_len``)."""


class StepWork(NamedTuple):
    """How much one forward pass does: what its cost is a function of."""

    requests: int
    """Requests in the batch."""
    tokens: int
    """Query tokens, prefill and decode together."""
    sampled: int
    """Requests that sample a token: rows of logits."""
    context_tokens: int
    """Tokens whose keys and values are read, each request's counted once."""
    attention_pairs: int
    """Pairs of a query and a key that it attends to, with the causal mask."""
    prefill_tokens: int
    """Those of `tokens` that are not the only token of their request in this step."""


@dataclass(slots=True)
class StepPlan:
    """The decisions of one step."""

    scheduled: dict[Request, int] = field(default_factory=dict)
    """Tokens to compute of each request in the batch, in the order of the batch."""
    admitted: list[tuple[Request, int]] = field(default_factory=list)
    """Requests that left the queue, with the tokens that the prefix cache had of them."""
    preempted: list[Request] = field(default_factory=list)
    """Requests that lost their blocks, in order."""

    def drop(self, request: Request) -> int:
        """Take a request out of the batch and return the tokens that were planned for it, 0 if there were none."""
        return self.scheduled.pop(request, 0)
