"""What the summary says of one cell; counts are those of the calls that count."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class RowsCell(TypedDict):
    """One cell, simulated or measured."""

    mode: str
    policy: str
    budget_rows: int
    vocab_rows: int
    row_bytes: int
    table_bytes: int
    cache_bytes: int
    """Of the cache and its staging buffer, on the device."""
    is_tied: bool
    """Whether the output head reads the same table, so that nothing is saved."""
    saved_bytes: int
    """What the table on the host frees of the device, less the cache; negative where the cache comes on top."""
    num_requests: int
    prompt_tokens: int
    tokens: int
    distinct_rows: int
    """Rows looked up, each once a call."""
    hit_rows: int
    missed_rows: int
    prefetched_rows: int
    used_prefetched_rows: int
    evicted_rows: int
    token_hit_frac: float
    row_hit_frac: float
    step_hit_frac: float | None
    """Of single tokens' rows; None where only prompts are read."""
    prefetch_used_frac: float | None
    prompt_embed_mean_s: float
    """From the call of the embedding to a prompt's rows."""
    prompt_plain_embed_mean_s: float
    """The same with the whole table on the device."""
    step_embed_mean_s: float | None
    step_plain_embed_mean_s: float | None
    prompt_mean_s: float
    """To the first token."""
    request_mean_s: float
    tokens_per_s: float
    resident_tokens_per_s: float
    speed_vs_resident: float
    is_drawn: bool
    zipf_exponent: float
    computes_as: str | None
    """The profile whose model stands in for the scenario's own; None where there is no need."""
    predicted_frac: float | None
    """How often the next token was among those expected; None without a predictor."""
    bound_hit_frac: NotRequired[float]
    """What Belady's MIN hits; simulated only."""
    outside_frac: NotRequired[float]
    """Share of the calls outside what the profile measured; simulated only."""
    same_logits_frac: NotRequired[float]
    """Share of the calls whose logits are equal to the last bit; measured only."""
