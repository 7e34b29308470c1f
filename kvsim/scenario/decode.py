"""A decode scenario: one experiment in a TOML file, as a tree of frozen objects in which a misspelt key cannot hide."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    model_serializer,
    model_validator,
)

from kvsim.scenario.file import MAX_CELLS, AnyScenario, Fraction, Output, Overrides, Role, Scalar, SizeBytes, load
from kvsim.scenario.models.known import known_models
from kvsim.scenario.models.suggest import suggestion
from kvsim.scenario.shapes import SHAPES, DType, KVName, ModelShape, Quantisation, WeightsName, find_shape
from kvsim.scenario.toml import Listed, Strict, nearest
from kvsim.types import UNIT_TOKENS, Partition

__all__ = [
    "CHANNELS",
    "MAX_CELLS",
    "Measure",
    "Output",
    "PolicyChoice",
    "Scenario",
    "SelectorChoice",
    "load_scenario",
]

CHANNELS = ("mass", "estimate:quest", "estimate:mean", "estimate:cuboid-mean", "speculate:next-layer")
"""Score channels that captures hold; a trace may name other estimates."""


def _is_shape(value: str | ModelShape) -> str | ModelShape:
    is_path = isinstance(value, str) and ("/" in value or value.endswith(".json") or Path(value).exists())
    if isinstance(value, str) and not is_path and value not in SHAPES:
        hint = suggestion(value, known_models(), "models ship", examples=("qwen3-8b", "llama-3.1-8b"))
        raise ValueError(f"unknown shape {value!r} (a name, a path, or a table of all sizes){hint}")
    return value


def _is_channel(value: str) -> str:
    if value not in CHANNELS and not re.fullmatch(r"(estimate|speculate):[a-z0-9-]+", value):
        raise ValueError(f"unknown channel {value!r}{nearest(value, CHANNELS)}")
    return value


def _is_whole_units(value: int) -> int:
    if value % UNIT_TOKENS:
        raise ValueError(f"should be a multiple of {UNIT_TOKENS} (the unit of a trace), found {value}")
    return value


def _as_policy(value: Any) -> Any:
    if not isinstance(value, str | dict | PolicyChoice):
        raise ValueError(f"should be a name in quotes or a table with a name, found {value!r}"[:120])
    return {"name": value} if isinstance(value, str) else value


def _one_value_each(policies: Any) -> Any:
    """Return the policies with each that lists values of an argument in place of its list, labelled by the value."""
    if not isinstance(policies, list):
        return policies
    return [single for choice in policies for single in _singles(choice)]


def _singles(choice: Any) -> list[Any]:
    arguments = choice.get("arguments") if isinstance(choice, dict) else None
    lists = {name: value for name, value in arguments.items() if isinstance(value, list)} if arguments else {}
    if not lists or not isinstance(arguments, dict):
        return [choice]
    empty = [name for name, values in lists.items() if not values]
    if empty:
        raise ValueError(f"argument {empty[0]!r} of {choice.get('name')!r}: an empty list; give at least one value")
    name = choice.get("label") or choice.get("name")
    return [
        {
            **choice,
            "arguments": arguments | dict(zip(lists, values, strict=True)),
            "label": f"{name}({', '.join(f'{key}={value}' for key, value in zip(lists, values, strict=True))})",
        }
        for values in itertools.product(*lists.values())
    ]


class PolicyChoice(Strict):
    """A policy by name, or ``package.module:Class``, with its arguments."""

    name: str
    arguments: dict[str, Scalar] = {}
    label: str | None = None
    """What tables call it; the name where absent."""

    @property
    def shown(self) -> str:
        """What tables and figures call it."""
        return self.label or self.name


class ModelChoice(Strict):
    """The model: its sizes, and where the engine finds its weights."""

    shape: Annotated[str | ModelShape, AfterValidator(_is_shape)]
    """A known name, the path of a config.json or of a folder that holds one, a hub id, or all sizes."""
    dtype: DType | None = None
    path: str | None = None
    """Folder, hub id or GGUF file: for `kvsim measure` and `kvsim capture`; the simulation needs none."""

    def resolve(self, base_dir: Path | None = None) -> ModelShape:
        """Return the shape, in the dtype that is asked for; `base_dir` is where paths start that are none from here.

        Raises
        ------
        ScenarioError
            If there is no such model, or decode cannot express it.
        """
        shape = find_shape(self.shape, base_dir=base_dir) if isinstance(self.shape, str) else self.shape
        return shape.in_formats(dtype=self.dtype)


class DecodedModel(ModelChoice):
    """A model to decode with, its weights and its cache in formats of their own if so wanted."""

    weights: WeightsName | None = None
    """Format of the weights where not `dtype`, as in ``int4``: for memory and estimates. The engine loads no such."""
    kv: KVName | None = None
    """Format of the KV cache where not `dtype`, as in ``fp8``: for memory and estimates."""

    quantisation: Quantisation | None = None
    """``8bit`` or ``4bit``: weights packed by bitsandbytes as they load. The profile must be of such weights, too."""

    def resolve(self, base_dir: Path | None = None) -> ModelShape:
        """Return the shape, in the formats that are asked for."""
        return super().resolve(base_dir).in_formats(weights=self.weights, kv=self.kv)


class ProfileChoice(Strict):
    """What things cost: a shipped profile by name, a file, or an estimate for a card."""

    path: str | None = None
    card: str | None = None
    """A card that ships by name, or its TOML file: costs are estimated from its data sheet (docs/estimates.md)."""
    runtime: Literal["eager", "graph"] | None = None
    """How an estimate launches kernels: as one graph, which is the default, or one by one from Python."""
    device_memory: SizeBytes | None = None
    """Memory to plan for, where it is not the profile's own."""
    allow_other_shape: bool = False
    """Use a profile measured for another model shape. Its times are then those of the other shape."""
    scale: Literal["work"] | None = None
    """Use it with every table scaled by what it moves or computes for this shape over what it does for its own."""

    @model_validator(mode="after")
    def _is_one(self) -> ProfileChoice:
        if (self.path is None) == (self.card is None):
            raise ValueError(f"give path or card, found {'neither' if self.path is None else 'both'}")
        if self.runtime is not None and self.card is None:
            raise ValueError("runtime is for an estimate: give it with card, not with path")
        return self


ONE_PROFILE = ("profile.path", "profile.card")
"""Fields of which one is given, in every experiment that has a profile."""
MODEL_INPUTS: dict[str, Role] = {
    "profile.path": "profile",
    "profile.card": "card",
    "model.shape": "config",
    "model.path": "model",
}
"""Fields that name what a model is and what it costs, in every experiment that has a profile."""
YOUNGER_OF_PROFILE = ("profile.scale", "profile.card", "profile.runtime")
"""Fields of a profile that the first scenarios had not."""


class Extrapolation(Strict):
    """Accesses beyond the trace: a generator fitted to it makes a longer context and another number of layers."""

    context_tokens: PositiveInt
    layers: Literal["relative-depth"] = "relative-depth"
    """Layer l of L' takes the parameters of the trace's layer at the same relative depth, round(l (L-1) / (L'-1))."""
    middle_growth: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the recent window's mass that goes to the middle at each doubling of the context."""
    sequences: PositiveInt | None = None
    """Sequences to generate, repeated in turn up to the batch; one for each of the batch where absent."""
    sequence_tokens: Annotated[Listed[PositiveInt], Field(min_length=1)] | None = None
    """Context of each sequence at the first step, in turn, at most `context_tokens`; absent: all have that."""
    sequence_steps: Annotated[Listed[PositiveInt], Field(min_length=1)] | None = None
    """Steps that each sequence decodes before it ends, in turn; all steps where absent."""

    @model_validator(mode="after")
    def _is_within(self) -> Extrapolation:
        longest = max(self.sequence_tokens or [0])
        if longest > self.context_tokens:
            raise ValueError(
                f"sequence_tokens: {longest} is above context_tokens, {self.context_tokens}, which is the longest"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, dump: Callable[[Extrapolation], dict[str, Any]]) -> dict[str, Any]:
        """Leave out the newest fields where they are absent: digests of older scenarios stay what they were."""
        newest = ("sequences", "sequence_tokens", "sequence_steps")
        return {name: value for name, value in dump(self).items() if name not in newest or value is not None}

    def lengths(self, num_sequences: int, num_steps: int) -> list[tuple[int, int]]:
        """Return the context at the first step and the steps of each of `num_sequences`."""
        tokens, steps = self.sequence_tokens or [self.context_tokens], self.sequence_steps or [num_steps]
        return [
            (tokens[place % len(tokens)], min(steps[place % len(steps)], num_steps)) for place in range(num_sequences)
        ]

    def kinds(self, num_sequences: int, num_steps: int) -> list[tuple[int, int]]:
        """Return what `lengths` does of as many sequences as differ: the others are like them."""
        period = math.lcm(len(self.sequence_tokens or [0]), len(self.sequence_steps or [0]))
        return self.lengths(min(num_sequences, period), num_steps)


class TraceChoice(Strict):
    """What is accessed: a shipped capture by name, or a file; replayed untouched but where `extrapolate` is given."""

    path: str
    num_steps: PositiveInt | None = None
    """Decode steps to replay; all that the trace has where absent (64 with `extrapolate`)."""
    channel: Annotated[str, AfterValidator(_is_channel)] | None = None
    """Score channel to select by in this trace, in place of the selector's; a measurement records the selector's."""
    extrapolate: Extrapolation | None = None


class Budget(Strict):
    """Device pages for the KV cache of the whole batch, in one of three ways."""

    pages_per_layer: PositiveInt | None = None
    bytes: SizeBytes | None = None
    context_frac: Fraction | None = None
    """Share of all pages at the last step."""
    partition: Partition = "shared"

    @model_validator(mode="after")
    def _is_one(self) -> Budget:
        stated = [name for name in ("pages_per_layer", "bytes", "context_frac") if getattr(self, name) is not None]
        if len(stated) != 1:
            raise ValueError(
                f"give exactly one of pages_per_layer, bytes and context_frac, found {' and '.join(stated) or 'none'}"
            )
        return self


class SelectorChoice(Strict):
    """Which pages attention reads, and by whose score."""

    name: Literal["full", "top-k", "threshold"]
    k_pages: PositiveInt | None = None
    """``top-k``: pages chosen by score besides sinks, recent window and open page. ``threshold``: at most so many."""
    threshold: Fraction | None = None
    sink_pages: NonNegativeInt = 0
    recent_pages: NonNegativeInt = 0
    """Complete pages before the open one that are always read."""
    channel: Annotated[str, AfterValidator(_is_channel)] = "mass"
    """Score channel of the trace, one of `CHANNELS`; ``mass`` makes an oracle of the selector."""

    @model_validator(mode="after")
    def _is_whole(self) -> SelectorChoice:
        if self.name != "full" and self.k_pages is None:
            raise ValueError(f"selector {self.name!r} needs k_pages")
        if self.name == "threshold" and self.threshold is None:
            raise ValueError("selector 'threshold' needs threshold, the share of the score to reach, as in 0.95")
        if self.name != "threshold" and self.threshold is not None:
            raise ValueError(f"threshold is for selector 'threshold', found selector {self.name!r}")
        return self


class Prefetch(Strict):
    """How much may come early, and how it is handed to the copy engine."""

    quota_pages: NonNegativeInt = 8
    """Most pages that one decision may prefetch."""
    chunk_pages: PositiveInt = 4
    """Pages of one prefetch transfer."""
    window_transfers: PositiveInt = 2
    """Prefetch transfers issued and not done, where a link cannot reorder."""


class RunChoice(Strict):
    """How the experiment is run."""

    policies: Annotated[
        Listed[Annotated[PolicyChoice, BeforeValidator(_as_policy)]], BeforeValidator(_one_value_each)
    ] = Field(min_length=1)
    """An argument given as a list makes a policy of each of its values: ``lru(k=1)``, ``lru(k=2)``."""
    batch: PositiveInt = 1
    devices: PositiveInt | None = None
    """Devices that the layers lie on, in a row; each has a budget, a link and a policy of its own. One where absent."""
    layers_per_device: Listed[PositiveInt] | None = None
    """Layers of each device; where absent the shares are equal, and the first devices have one more if need be."""
    repetitions: PositiveInt = 1
    warmup_steps: NonNegativeInt = 8
    """First steps of every repetition that no figure counts."""
    seed: NonNegativeInt = 0
    prefill_chunk_tokens: PositiveInt = 512
    """Tokens of a step in all, of all sequences: the token budget of a server's step. It decides on the activations."""

    @model_validator(mode="after")
    def _has_layers_for_all(self) -> RunChoice:
        counts, num_devices = self.layers_per_device, self.devices or 1
        if counts is not None and len(counts) != num_devices:
            raise ValueError(
                f"layers_per_device: has {len(counts)} numbers for devices = {num_devices}; give one for each"
            )
        return self


class Measure(Strict):
    """How the experiment is run for real: `kvsim measure` and `kvsim crosscheck`; the simulation needs none of it."""

    prompt_tokens: PositiveInt | Annotated[Listed[PositiveInt], Field(min_length=1)]
    """Tokens of context before the first step: one number for all sequences, or a list with one for each."""
    text: str = "python-docs"
    """What is read: ``python-docs`` (Python's own help topics), ``python-code``, or a UTF-8 text file."""
    num_steps: PositiveInt = 40
    repeats: PositiveInt = 3
    """Uninstrumented runs of every cell; one instrumented run comes besides."""
    sequence_steps: Annotated[Listed[PositiveInt], Field(min_length=1)] | None = None
    """Steps that each sequence decodes before it ends, in turn, the largest `num_steps`; absent: all of them."""

    @model_validator(mode="after")
    def _has_a_longest(self) -> Measure:
        if self.sequence_steps is not None and max(self.sequence_steps) != self.num_steps:
            raise ValueError(
                f"sequence_steps: the largest is {max(self.sequence_steps)}, should be num_steps, {self.num_steps}"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, dump: Callable[[Measure], dict[str, Any]]) -> dict[str, Any]:
        """Leave out the newest field where it is absent: digests of older scenarios stay what they were."""
        return {name: value for name, value in dump(self).items() if name != "sequence_steps" or value is not None}

    @property
    def longest_prompt_tokens(self) -> int:
        """Tokens of the longest prompt."""
        return self.prompt_tokens if isinstance(self.prompt_tokens, int) else max(self.prompt_tokens)

    def steps_of(self, num_sequences: int) -> tuple[int, ...] | None:
        """Return the steps of each of `num_sequences`; None where all decode all of them."""
        steps = self.sequence_steps
        if steps is None:
            return None
        return tuple(steps[place % len(steps)] for place in range(num_sequences))


class Scenario(AnyScenario):
    """One experiment in decode: a model's pages on a device that cannot hold them all."""

    one_of: ClassVar = (("budget.pages_per_layer", "budget.bytes", "budget.context_frac"), ONE_PROFILE)
    lists: ClassVar = (
        *("run.policies", "run.layers_per_device", "exclude"),
        *("trace.extrapolate.sequence_tokens", "trace.extrapolate.sequence_steps"),
        *("measure.prompt_tokens", "measure.sequence_steps"),
    )
    not_swept: ClassVar = {"run.policies": ": every policy of run.policies already runs in every cell"}
    younger: ClassVar = (
        *("exclude", "kind", "trace.channel", "model.quantisation", "model.weights", "model.kv"),
        *("run.devices", "run.layers_per_device"),
        *YOUNGER_OF_PROFILE,
    )

    inputs: ClassVar[dict[str, Role]] = MODEL_INPUTS | {"trace.path": "trace", "measure.text": "text"}

    kind: Literal["decode"] | None = None
    model: DecodedModel
    profile: ProfileChoice
    trace: TraceChoice
    page_tokens: Annotated[PositiveInt, AfterValidator(_is_whole_units)]
    budget: Budget
    selector: SelectorChoice
    prefetch: Prefetch = Prefetch()
    run: RunChoice
    measure: Measure | None = None


def load_scenario(path: Path, overrides: Overrides = ()) -> Scenario:
    """Return the decode scenario in the file `path`; see `kvsim.scenario.file.load`."""
    return load(Scenario, path, overrides)
