"""A scenario: one experiment in a TOML file, as a tree of frozen objects in which a misspelt key cannot hide.

`load_scenario` reads a file, applies ``KEY=VALUE`` overrides and reports all faults at once; `expand` turns the lists
under ``[sweep]`` into one scenario a cell.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from kvsim.errors import ScenarioError
from kvsim.models import DType, ModelShape
from kvsim.strict import Strict, nearest, read_toml, validate
from kvsim.types import UNIT_TOKENS, Partition
from kvsim.units import parse_bytes

SCHEMA_VERSION = 1

_T = TypeVar("_T")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes(value)
    except ScenarioError as problem:
        raise ValueError(str(problem)) from None


def _as_policy(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Listed: TypeAlias = Annotated[tuple[_T, ...], BeforeValidator(_as_tuple)]
SizeBytes: TypeAlias = Annotated[PositiveInt, BeforeValidator(_as_bytes)]
Fraction: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Scalar: TypeAlias = str | int | float | bool


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
    """The model: a known shape by name or all its sizes; `path` is where the engine finds the weights."""

    shape: str | ModelShape
    dtype: DType | None = None
    path: str | None = None
    """Folder, hub id or GGUF file: for `kvsim measure` and `kvsim capture`; the simulation needs none."""


class ProfileChoice(Strict):
    """What things cost: a shipped profile by name, or a file."""

    path: str
    device_memory: SizeBytes | None = None
    """Memory to plan for, where it is not the profile's own."""
    allow_other_shape: bool = False
    """Use a profile measured for another model shape. Its times are then those of the other shape."""


class Extrapolation(Strict):
    """Accesses beyond the trace: a generator fitted to it makes a longer context and another number of layers."""

    context_tokens: PositiveInt
    layers: Literal["relative-depth"] = "relative-depth"
    """Layer l of L' takes the parameters of the trace's layer at the same relative depth, round(l (L-1) / (L'-1))."""
    middle_growth: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the recent window's mass that goes to the middle at each doubling of the context."""


class TraceChoice(Strict):
    """What is accessed: a shipped capture by name, or a file; replayed untouched unless `extrapolate` asks otherwise."""

    path: str
    num_steps: PositiveInt | None = None
    """Decode steps to replay; all that the trace has where absent (64 with `extrapolate`)."""
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
        given = [name for name in ("pages_per_layer", "bytes", "context_frac") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of pages_per_layer, bytes and context_frac, found {' and '.join(given) or 'none'}"
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
    channel: str = "mass"
    """Score channel of the trace: ``mass`` (an oracle), ``estimate:quest``, ``estimate:mean``, ``speculate:next-layer``."""

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

    policies: Listed[Annotated[PolicyChoice, BeforeValidator(_as_policy)]] = Field(min_length=1)
    batch: PositiveInt = 1
    repetitions: PositiveInt = 1
    warmup_steps: NonNegativeInt = 8
    """First steps of every repetition that no figure counts."""
    seed: NonNegativeInt = 0
    prefill_chunk_tokens: PositiveInt = 512


class Output(Strict):
    """Where results go."""

    folder: str = "results"
    figures: bool = True


class Scenario(Strict):
    """One experiment."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    question: str = ""
    model: ModelChoice
    profile: ProfileChoice
    trace: TraceChoice
    page_tokens: PositiveInt
    budget: Budget
    selector: SelectorChoice
    prefetch: Prefetch = Prefetch()
    run: RunChoice
    sweep: dict[str, Listed[Scalar]] = {}
    """Dotted fields and the values each takes; the cells are their product."""
    output: Output = Output()

    @model_validator(mode="after")
    def _fits_units(self) -> Scenario:
        if self.page_tokens % UNIT_TOKENS:
            raise ValueError(
                f"page_tokens must be a multiple of {UNIT_TOKENS} (the unit of a trace), found {self.page_tokens}"
            )
        return self

    @property
    def hash(self) -> str:
        """A digest of everything the scenario says: equal hashes, equal results."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def load_scenario(path: Path, overrides: Sequence[str] = ()) -> Scenario:
    """Return the scenario in the file `path` with ``KEY=VALUE`` overrides applied.

    Raises
    ------
    ScenarioError
        With a line for every fault: the key, what was found, what would be right, the nearest valid name.
    """
    tables = read_toml(path, ScenarioError)
    for override in overrides:
        _override(tables, override)
    scenario = validate(Scenario, tables, where=str(path), error=ScenarioError)
    faults = _sweep_faults(scenario)
    if faults:
        raise ScenarioError("\n".join(f"{path}: {fault}" for fault in faults))
    return scenario


def expand(scenario: Scenario) -> list[Scenario]:
    """Return one scenario for each combination of the values under ``[sweep]``, in the file's order."""
    names = list(scenario.sweep)
    cells = []
    for values in itertools.product(*scenario.sweep.values()):
        cells.append(_with_values(scenario, dict(zip(names, values, strict=True))))
    return cells


def _with_values(scenario: Scenario, values: dict[str, Any]) -> Scenario:
    tables = scenario.model_dump(mode="python", exclude_unset=True)
    tables["sweep"] = {}
    for key, value in values.items():
        _set(tables, key, value)
    return validate(Scenario, tables, where=scenario.name, error=ScenarioError)


def _sweep_faults(scenario: Scenario) -> list[str]:
    faults = []
    for key, values in scenario.sweep.items():
        if not values:
            faults.append(f"sweep.{key!r}: an empty list; give at least one value")
        for value in values:
            try:
                _with_values(scenario, {key: value})
            except ScenarioError as problem:
                faults += [f"sweep.{key!r}: {line.split(': ', 1)[-1]}" for line in str(problem).splitlines()]
    return list(dict.fromkeys(faults))


def _override(tables: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise ScenarioError(f"--set {override!r}: write KEY=VALUE, as in --set budget.pages_per_layer=64")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    key = key.strip()
    _set(tables, key, value)
    swept = tables.get("sweep")
    if isinstance(swept, dict):
        swept.pop(key, None)


_ONE_OF = {"budget": ("pages_per_layer", "bytes", "context_frac")}


def _set(tables: dict[str, Any], dotted: str, value: Any) -> None:
    *outer, last = dotted.split(".")
    if outer and outer[0] == "sweep":
        outer, last = ["sweep"], dotted.removeprefix("sweep.")
    current = tables
    for part in outer:
        if not isinstance(current.setdefault(part, {}), dict):
            raise ScenarioError(f"{dotted}: {part!r} is no table{nearest(part, Scenario.model_fields)}")
        current = current[part]
    for other in _ONE_OF.get(".".join(outer), ()):
        if last in _ONE_OF[".".join(outer)] and other != last:
            current.pop(other, None)
    current[last] = value
