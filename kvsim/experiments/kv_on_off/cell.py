"""What the summary says of one cell, and of what grows over several."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class KvCell(TypedDict):
    """One cell, simulated or measured."""

    use_cache: bool
    batch: int
    prompt_tokens: int
    new_tokens: int
    latency_s: float
    """Of all tokens."""
    first_token_s: float
    tpot_s: float | None
    """None of one token."""
    tokens_per_s: float
    kv_bytes: int
    """Of the KV cache at the end."""
    computed_tokens: int
    """Tokens that passed through the model."""
    peak_bytes: int
    """The most bytes of tensors alive besides the weights."""
    speed_vs_off: NotRequired[float | None]
    """The time without a cache over this one; None where only one of both was run, and absent until all are known."""
    latency_repeats_s: NotRequired[list[float]]
    """Measured only."""
    same_tokens_frac: NotRequired[float]
    """Share of the tokens that are those of the first cell of the same sizes; measured only."""


class Growth(TypedDict):
    """How fast one thing grows: the exponent of a power law, with what theory allows."""

    growth: str
    use_cache: bool
    exponent: float | None
    theory_low: float
    theory_high: float
    theory: str
    """Why."""
