"""What fits: the parts of a card's memory, and the largest context and batch that it holds whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvsim.experiments.plan.request import Request
from kvsim.scenario.models.memory import activation_bytes, kv_bytes

BLOCK_TOKENS = 16
"""Tokens of one block of a paged allocator: contexts are counted in whole ones."""
_MOST = 2**40
"""No context or batch is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory of one card with everything on it."""

    weights: str
    """Format of the weights."""
    kv: str
    """Format of the KV cache."""
    weights_bytes: int
    kv_bytes: int
    """Of the batch at its context."""
    activation_bytes: int
    reserve_bytes: int
    """What the runtime takes besides."""
    usable_bytes: int
    """What an engine takes of the card."""
    card_bytes: int
    """What an application sees of it."""
    max_kv_bytes: int
    """What is left for the KV cache."""
    max_kv_tokens: int
    """Tokens of one sequence that this holds, in whole blocks; 0 where nothing is left."""
    max_context_tokens: int
    """The longest context of each sequence of the batch that fits, in whole blocks."""
    max_batch: int
    """The most sequences of the context that fit."""

    @property
    def total_bytes(self) -> int:
        """What everything takes."""
        return self.weights_bytes + self.kv_bytes + self.activation_bytes + self.reserve_bytes

    @property
    def fits(self) -> bool:
        """Whether it is no more than what an engine takes."""
        return self.total_bytes <= self.usable_bytes


def memory_of(request: Request, weights: str | None = None, kv: str | None = None) -> Memory:
    """Return the memory of a request, in other formats than its own where they are named.

    Activations are those of a step of a prefill, which also has one row of logits for each sequence.
    """
    weights, held = weights or request.weights, kv or request.kv or request.dtype
    spec, batch, context = request.spec, request.batch, request.context_tokens
    own = {
        "weights_bytes": request.weights_bytes(weights),
        "activation_bytes": activation_bytes(spec, max(request.step_tokens, batch), batch),
        "reserve_bytes": request.reserve_bytes,
    }
    left_bytes = max(request.usable_bytes - sum(own.values()), 0)

    def fits(num_sequences: int, num_tokens: int) -> bool:
        return num_sequences * kv_bytes(spec, num_tokens, held) <= left_bytes

    return Memory(
        weights=weights or request.own_weights(),
        kv=held,
        kv_bytes=batch * kv_bytes(spec, context, held),
        usable_bytes=request.usable_bytes,
        card_bytes=request.card.usable_memory_bytes,
        max_kv_bytes=left_bytes,
        max_kv_tokens=_largest(lambda blocks: fits(1, blocks * BLOCK_TOKENS)) * BLOCK_TOKENS,
        max_context_tokens=_largest(lambda blocks: fits(batch, blocks * BLOCK_TOKENS)) * BLOCK_TOKENS,
        max_batch=_largest(lambda sequences: _batch_fits(request, weights, held, sequences)),
        **own,
    )


def _batch_fits(request: Request, weights: str | None, kv: str, sequences: int) -> bool:
    spec = request.spec
    step_bytes = activation_bytes(spec, max(request.step_tokens, sequences), sequences)
    cache_bytes = sequences * kv_bytes(spec, request.context_tokens, kv)
    total_bytes = request.weights_bytes(weights) + step_bytes + request.reserve_bytes + cache_bytes
    return total_bytes <= request.usable_bytes


def _largest(holds: Callable[[int], bool]) -> int:
    """Return the largest number that `holds`, which is true up to some number; 0 where it is never true."""
    low, high = 0, 1
    while high < _MOST and holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
