"""What the summary says of one cell."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class BlocksCell(TypedDict):
    """One cell, simulated or measured; None where a figure does not apply or times are not known."""

    policy: str
    admission: str
    index: str
    in_flight: int
    budget_blocks: int | None
    """None for no limit."""
    block_tokens: int
    cache_bytes: int
    num_requests: int
    num_blocks: int
    distinct_blocks: int
    hit_blocks: int
    hit_tokens: int
    evicted_blocks: int
    block_hit_frac: float | None
    token_hit_frac: float | None
    request_mean_hit_frac: float | None
    """Mean of each request's share of blocks."""
    ttft_mean_s: float | None
    ttft_p50_s: float | None
    ttft_p90_s: float | None
    ttft_full_mean_s: float | None
    """Without a cache."""
    ttft_saved_frac: float | None
    prefill_load_frac: float | None
    """Time of all prefills one after another, over the span in which requests arrive."""
    bound_block_hit_frac: NotRequired[float | None]
    """What Belady's MIN hits with this budget; simulated only, as the following."""
    unlimited_block_hit_frac: NotRequired[float | None]
    ttft_outside_frac: NotRequired[float | None]
    """Share of the requests beyond what the profile measured."""
    next_token_agreement_frac: NotRequired[float]
    """Share of the prompts with the same next token as without a cache; measured only, as the following."""
    max_logit_difference: NotRequired[float]
