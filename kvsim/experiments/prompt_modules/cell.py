"""What the summary says of one cell, and of one prompt."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class ModulesCell(TypedDict):
    """One cell, simulated or measured; counts are over the stream of requests."""

    tier: str
    policy: str
    budget_modules: int
    scaffolds: bool
    seen: str
    num_requests: int
    num_prompts: int
    read_modules: int
    """Modules that some prompt reads."""
    all_bytes: int
    """Of their states together."""
    module_hits: int
    module_misses: int
    evictions: int
    hit_tokens: int
    encoded_tokens: int
    module_hit_frac: float | None
    """None where no prompt reads a module, as the following."""
    token_hit_frac: float | None
    peak_bytes: int
    """The most that the store held."""
    ttft_mean_s: float
    ttft_full_mean_s: float
    """Under full attention, without a store."""
    ttft_saved_frac: float
    bound_hit_frac: NotRequired[float]
    """What Belady's MIN hits; simulated only, as the following."""
    ttft_outside_frac: NotRequired[float]
    """Share of the requests beyond what the profile measured."""


class PromptEntry(TypedDict):
    """One prompt whose modules are all stored, on the tier and in the encoding of some cells."""

    prompt: str
    tier: str
    scaffolds: bool
    seen: str
    modules: int
    tokens: int
    reused_tokens: int
    fresh_tokens: int
    """Tokens that are computed for this prompt alone."""
    ttft_s: float
    ttft_full_s: float
    speed_vs_full: float
    kl_first_nats: NotRequired[float]
    """Divergence from full attention at the first token; measured only, as the following."""
    kl_mean_nats: NotRequired[float]
    greedy_agreement_frac: NotRequired[float]
    first_token_same: NotRequired[bool]
    full_processor_s: NotRequired[float]
