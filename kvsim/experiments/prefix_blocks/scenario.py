"""What a scenario of prefix blocks may say."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from kvsim.experiments.base import CacheScenario
from kvsim.experiments.requests import RequestsChoice
from kvsim.scenario.decode import ONE_PROFILE
from kvsim.scenario.file import Fraction, Role
from kvsim.scenario.toml import Strict


class BlockCache(Strict):
    """The cache: how many blocks, and which leave."""

    budget_blocks: PositiveInt | None = None
    budget_frac: Fraction | None = None
    """Budget as a share of the trace's different blocks; no limit where neither is given."""
    policy: Literal["lru", "fifo", "lfu", "sieve", "s3-fifo", "arc", "belady"]
    admission: Literal["all", "second-touch"] = "all"
    index: Literal["hash", "radix"] = "hash"
    """``radix``: a radix tree that evicts whole leaves, as SGLang's does."""
    in_flight: PositiveInt = 1
    """Requests that hold their blocks at a time."""

    @model_validator(mode="after")
    def _is_possible(self) -> BlockCache:
        if self.budget_blocks is not None and self.budget_frac is not None:
            raise ValueError("give one of budget_blocks and budget_frac")
        if self.index == "radix" and self.policy not in ("lru", "fifo", "lfu"):
            raise ValueError(f"index 'radix' ranks leaves by lru, fifo or lfu, found policy {self.policy!r}")
        if self.index == "radix" and (self.in_flight > 1 or self.admission != "all"):
            raise ValueError("index 'radix' takes one request in flight and admission 'all'")
        return self


class RealRequests(Strict):
    """What `kvsim measure` sends: sessions that share a system prompt, each growing turn by turn, taken in turn."""

    text: str = "python-docs"
    """What is read: ``python-docs``, ``python-code``, or a UTF-8 text file."""
    sessions: PositiveInt
    turns: PositiveInt
    system_tokens: PositiveInt
    turn_tokens: PositiveInt
    """Tokens that each turn adds."""
    repeats: PositiveInt = 1


class PrefixBlocks(CacheScenario):
    """Blocks of prompts kept for the next prompt that begins alike."""

    one_of: ClassVar = (("cache.budget_blocks", "cache.budget_frac"), ONE_PROFILE)
    younger: ClassVar = (*CacheScenario.younger, "trace.time_unit")

    inputs: ClassVar[dict[str, Role]] = CacheScenario.inputs | {"trace.path": "requests"}

    kind: Literal["prefix-blocks"]
    trace: RequestsChoice
    cache: BlockCache
    prefill_chunk_tokens: Annotated[int, Field(ge=1)] = 512
    """Tokens of one call of the model in prefill."""
    measure: RealRequests | None = None
