"""What a scenario of prompt modules may say."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from kvsim.experiments.base import CacheScenario
from kvsim.scenario.decode import ONE_PROFILE
from kvsim.scenario.file import Fraction, Role, SizeBytes
from kvsim.scenario.limits import Count
from kvsim.scenario.toml import Strict
from kvsim.types import Tier


class PromptsChoice(Strict):
    """The schema, the prompts that select from it, and how texts are counted."""

    schema_file: str
    """A file of prompt markup (`docs/prompt-modules.md`)."""
    prompts_file: str
    """A file of prompts for that schema."""
    lengths_file: str | None = None
    """Tokens of every text as `kvsim measure` writes them, so that no tokenizer is needed to simulate; or ``""``."""
    opening: str = ""
    """What comes before the new text of every prompt."""
    closing: str = ""
    """What comes behind it."""


class Stream(Strict):
    """The order in which prompts arrive."""

    num_requests: Count = 24
    draw: Literal["in-turn", "zipf"] = "in-turn"
    """``zipf``: the prompt named i-th is drawn with a weight of ``1 / i ** skew``."""
    skew: NonNegativeFloat = 1.0
    seed: NonNegativeInt = 0


class ModuleStoreChoice(Strict):
    """Where encoded modules are kept, how many, and which leave."""

    tier: Tier = "device"
    policy: str = "lru"
    """A name in `kvsim.caches.CACHE_POLICIES`."""
    budget_modules: PositiveInt | None = None
    """Modules that fit, whatever their size."""
    budget_frac: Fraction | None = None
    """Budget as a share of what the prompts read; all fits where no budget is given."""
    budget_bytes: SizeBytes | None = None
    """As many slots as fit, each for the largest module."""
    seed: NonNegativeInt = 0
    """Of a policy that draws."""

    @model_validator(mode="after")
    def _has_one_budget(self) -> ModuleStoreChoice:
        if sum(value is not None for value in (self.budget_modules, self.budget_frac, self.budget_bytes)) > 1:
            raise ValueError("give one of budget_modules, budget_frac and budget_bytes")
        return self


class Encoding(Strict):
    """How modules are encoded, and what reads them."""

    scaffolds: bool = False
    """Encode the schema's scaffolds besides, and read them where a prompt selects all of one's modules."""
    seen: Literal["all", "before"] = "all"
    """What arguments and new text attend to: all of the prompt's states, or those of no later position."""


class RealPrompts(Strict):
    """What `kvsim measure` does besides the stream."""

    repeats: PositiveInt = 3
    """Timed runs of each prompt, with all modules stored and under full attention in turn."""
    answer_tokens: PositiveInt = 16
    """Tokens of the full model's answer over which both are compared."""


class PromptModules(CacheScenario):
    """Pieces of prompts encoded once, each alone at its own positions, and reused wherever a prompt selects them."""

    one_of: ClassVar = (("cache.budget_modules", "cache.budget_frac", "cache.budget_bytes"), ONE_PROFILE)
    not_swept: ClassVar = {
        **{
            f"prompts.{field}": "; all cells read one set of prompts"
            for field in ("schema_file", "prompts_file", "lengths_file", "opening", "closing")
        },
        "prefill_chunk_tokens": "; all cells share the runs under full attention",
        "measure.repeats": "; all cells share the timed runs",
        "measure.answer_tokens": "; all cells share the answers",
    }

    inputs: ClassVar[dict[str, Role]] = {
        **CacheScenario.inputs,
        "prompts.schema_file": "file",
        "prompts.prompts_file": "file",
        "prompts.lengths_file": "file",
    }

    kind: Literal["prompt-modules"]
    prompts: PromptsChoice
    stream: Stream = Stream()
    cache: ModuleStoreChoice = ModuleStoreChoice()
    encoding: Encoding = Encoding()
    prefill_chunk_tokens: PositiveInt = 512
    """Tokens of one call of the model."""
    measure: RealPrompts = RealPrompts()
