"""What the summary says of one cell, and of the lengths from which loading a prompt's beginning pays."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class PromptsCell(TypedDict):
    """One cell, simulated or measured; None where a figure does not apply or times are not known."""

    tier: str
    policy: str
    shared_tokens: int | None
    """Tokens that prompts about one document share; None of a trace."""
    budget_bytes: int | None
    """Of the first tier; None for no limit."""
    host_bytes: int | None
    """Of the host beside the device; None for no limit."""
    least_tokens: int
    link_bytes_per_s: int | None
    """Of a link of the cell's own; None for the profile's."""
    num_requests: int
    prompt_tokens: int
    hits: int
    """Prompts that reused a token or more."""
    host_hits: int
    reused_tokens: int
    reused_frac: float
    evicted: int
    """Prompts given up."""
    demoted: int
    """Prompts that went from the device to the host."""
    kept_bytes: int
    """Of all prompts kept after the last one."""
    ttft_mean_s: float | None
    ttft_full_mean_s: float | None
    """Without a cache."""
    keep_mean_s: float | None
    ttft_hit_s: float | None
    """Of hits, as the following."""
    ttft_hit_full_s: float | None
    speedup: float | None
    restore_hit_s: float | None
    least_link_bytes_per_s: float | None
    """Over a slower link, loading what was reused takes longer than computing it."""
    ttft_outside_frac: NotRequired[float | None]
    """Share of the prompts beyond what the profile measured; simulated only."""
    gain_repeats_s: NotRequired[list[float]]
    """What hits gained in each repeat; measured only, as the following."""
    busy_gain_s: NotRequired[float]
    """The gain by the time on the link and the processor alone."""
    next_token_agreement_frac: NotRequired[float]
    max_logit_difference: NotRequired[float]


class Crossing(TypedDict):
    """From which length on loading beats computing: ``from`` a number of tokens, ``always`` or ``never``."""

    verdict: str
    from_tokens: float | None


class BreakEven(Crossing):
    """That of one group of cells, which differ in the tokens shared alone."""

    tier: str
    policy: str
    budget_bytes: int | None
    link_bytes_per_s: int | None
    least_tokens: int
    lengths: list[int]
    gains_s: list[float]
    """What a hit of each length gains."""
    repeats: list[Crossing]
    """Of each repeat of a measurement."""
    busy_verdict: NotRequired[str]
    """By the time on the link and the processor alone."""
    busy_from_tokens: NotRequired[float | None]
    simulated_verdict: NotRequired[str]
    """Where a simulation stands beside, as the following."""
    simulated_from_tokens: NotRequired[float | None]
    error_frac: NotRequired[float | None]
    agrees: NotRequired[bool]
    busy_error_frac: NotRequired[float | None]
