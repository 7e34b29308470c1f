"""What a scenario of a cache of embedding rows may say."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, NonNegativeInt, PositiveInt, model_validator

from kvsim.caches import find_cache_policy
from kvsim.errors import ScenarioError
from kvsim.experiments.base import CacheScenario
from kvsim.scenario.decode import ONE_PROFILE
from kvsim.scenario.file import Fraction, Role, SizeBytes
from kvsim.scenario.toml import Strict

Mode: TypeAlias = Literal["cold", "warm", "steady", "prefetch"]


def _is_policy(name: str) -> str:
    try:
        find_cache_policy(name)
    except ScenarioError as problem:
        raise ValueError(str(problem)) from None
    return name


class StreamChoice(Strict):
    """Which tokens are read."""

    path: str
    """A shipped token stream by name, a ``.jsonl`` file of tokens, or a UTF-8 text."""
    tokenizer: str | None = None
    """For a text: the folder of a model with its ``tokenizer.json``."""
    drawn: Literal["as-is", "zipf"] = "as-is"
    """``zipf``: draw tokens of the whole vocabulary from a Zipf law with the exponent of the stream."""
    drawn_tokens: PositiveInt | None = None
    """``zipf``: how many; as many as the stream has where absent."""
    train_frac: float = 0.5
    """The stream's first part, which the predictor learns from and no request is made of."""
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _is_possible(self) -> StreamChoice:
        if not 0 <= self.train_frac < 1:
            raise ValueError(f"train_frac should be at least 0 and less than 1, found {self.train_frac}")
        if self.drawn_tokens is not None and self.drawn != "zipf":
            raise ValueError("drawn_tokens goes with drawn = 'zipf'")
        return self


class RowBudget(Strict):
    """The cache on the device: how many rows, and which leave."""

    budget_rows: PositiveInt | None = None
    budget_bytes: SizeBytes | None = None
    budget_frac: Fraction | None = None
    """Of the vocabulary."""
    policy: Annotated[str, AfterValidator(_is_policy)] = "lru"
    """A name of `kvsim.caches.CACHE_POLICIES`."""
    seed: NonNegativeInt = 0
    """Of a policy that draws."""

    @model_validator(mode="after")
    def _is_one(self) -> RowBudget:
        stated = [name for name in ("budget_rows", "budget_bytes", "budget_frac") if getattr(self, name) is not None]
        if len(stated) != 1:
            raise ValueError("give one of budget_rows, budget_bytes and budget_frac")
        return self


class RowRequests(Strict):
    """How requests are made of the stream, one after the other, and what the cache knows when each comes."""

    mode: Mode
    """``cold``: an empty cache for every request. ``warm``: each request is looked up once before it counts.
    ``steady``: one cache for all. ``prefetch``: that, and rows fetched ahead."""
    prompt_tokens: PositiveInt
    new_tokens: PositiveInt
    """Tokens of the stream that follow, fed one by one."""
    batch: PositiveInt = 1
    """Requests that are computed together."""
    requests: PositiveInt | None = None
    """All that the stream has where absent."""


class Ahead(Strict):
    """What is fetched ahead in mode ``prefetch``."""

    queued: bool = True
    """Rows of the next prompt, while the request before it computes."""
    bigram_rows: NonNegativeInt = 4
    """In decode: rows of so many tokens that most often followed the last one; 0 for none."""
    chunk_rows: PositiveInt = 64
    """Rows of one transfer; a miss overtakes those that have not begun."""


class RowsMeasured(Strict):
    """What `kvsim measure` runs."""

    requests: PositiveInt = 4
    """Only the first so many: the real model takes its time."""
    repeats: PositiveInt = 1


class EmbeddingRows(CacheScenario):
    """The embedding table in host memory, and a cache of its rows on the device."""

    one_of: ClassVar = (("cache.budget_rows", "cache.budget_bytes", "cache.budget_frac"), ONE_PROFILE)

    inputs: ClassVar[dict[str, Role]] = CacheScenario.inputs | {"stream.path": "tokens"}

    kind: Literal["embedding-rows"]
    stream: StreamChoice
    cache: RowBudget
    run: RowRequests
    prefetch: Ahead = Ahead()
    measure: RowsMeasured = RowsMeasured()
