"""What a scenario of a prompt cache may say."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from kvsim.caches.prompts.accounting import TierBudget
from kvsim.experiments.base import CacheScenario
from kvsim.scenario.decode import ONE_PROFILE
from kvsim.scenario.file import Fraction, Role, SizeBytes
from kvsim.scenario.toml import Strict


class PromptsChoice(Strict):
    """Which prompts are sent: documents with a question of their own each, or those of a request trace."""

    num_requests: PositiveInt
    stream: str | None = None
    """A shipped token stream by name, or a file: documents and questions are stretches of it."""
    system_tokens: NonNegativeInt = 0
    """Tokens that all prompts begin with."""
    documents: PositiveInt = 1
    """Different documents that follow."""
    document_tokens: NonNegativeInt = 0
    own_tokens: PositiveInt = 32
    """Tokens of every prompt that no other has."""
    popularity: NonNegativeFloat = 1.0
    """The document of rank r is asked about in proportion to 1 / r to this power; 0: all alike."""
    seed: NonNegativeInt = 0
    """Of the order in which documents are asked about."""
    trace: str | None = None
    """A shipped trace of full blocks by name, or a file: tokens stand in for its blocks, and share what they share."""
    max_tokens: PositiveInt | None = None
    """Cut every prompt to so many tokens."""

    @model_validator(mode="after")
    def _is_whole(self) -> PromptsChoice:
        if (self.stream is None) == (self.trace is None):
            raise ValueError("give one of stream (documents and questions) and trace (blocks of real prompts)")
        if self.stream is not None and not self.shared_tokens:
            raise ValueError("prompts share nothing: give document_tokens or system_tokens")
        return self

    @property
    def shared_tokens(self) -> int | None:
        """Tokens that prompts about one document share; None of a trace, whose prompts share what they do."""
        return self.system_tokens + self.document_tokens if self.stream is not None else None


class PromptStore(Strict):
    """Where prompts are kept, how many bytes of them, and which leave."""

    tier: Literal["device", "host", "both"]
    """``both``: what leaves the device goes to the host."""
    budget_bytes: SizeBytes | None = None
    """Of the tier, or of the device where both are used; no limit where none is given."""
    budget_frac: Fraction | None = None
    """The same as a share of what keeping every prompt sent would take."""
    host_bytes: SizeBytes | None = None
    """Of the host beside the device; no limit where absent."""
    policy: Literal["lru", "fifo", "lfu", "sieve"] = "lru"
    least_tokens: PositiveInt = 1
    """Reuse no fewer tokens than this: compute them."""
    link_bytes_per_s: SizeBytes | None = None
    """Bandwidth of the emulated link to the host, where it is not the profile's; tier ``device`` does not cross it."""

    @model_validator(mode="after")
    def _is_possible(self) -> PromptStore:
        if self.budget_bytes is not None and self.budget_frac is not None:
            raise ValueError("give one of budget_bytes and budget_frac")
        if self.host_bytes is not None and self.tier != "both":
            raise ValueError("host_bytes is for tier = 'both'; with one tier give budget_bytes")
        return self

    def budget_of(self, all_bytes: int) -> int | None:
        """Return the bytes that the first tier may hold, where all prompts together take `all_bytes`."""
        return self.budget_bytes if self.budget_frac is None else max(1, round(self.budget_frac * all_bytes))

    def tiers(self, all_bytes: int) -> list[TierBudget]:
        """Return the tiers, the nearest first, where all prompts together take `all_bytes`."""
        budget_bytes = self.budget_of(all_bytes)
        if self.tier != "both":
            return [TierBudget(tier=self.tier, budget_bytes=budget_bytes, policy=self.policy)]
        return [
            TierBudget(tier="device", budget_bytes=budget_bytes, policy=self.policy),
            TierBudget(tier="host", budget_bytes=self.host_bytes, policy=self.policy),
        ]


class RealPrompts(Strict):
    """How `kvsim measure` sends them."""

    repeats: PositiveInt = 1
    """Times that every prompt is sent; times are medians over them."""


class PromptCacheScenario(CacheScenario):
    """Whole prompts kept for the next prompt that begins alike."""

    one_of: ClassVar = (("cache.budget_bytes", "cache.budget_frac"), ("prompts.stream", "prompts.trace"), ONE_PROFILE)

    inputs: ClassVar[dict[str, Role]] = CacheScenario.inputs | {"prompts.stream": "tokens", "prompts.trace": "requests"}

    kind: Literal["prompt-cache"]
    prompts: PromptsChoice
    cache: PromptStore
    prefill_chunk_tokens: Annotated[int, Field(ge=1)] = 512
    """Tokens of one call of the model in prefill."""
    measure: RealPrompts = RealPrompts()
