"""A scenario: one experiment in a TOML file, as a tree of frozen objects in which a misspelt key cannot hide.

`load_scenario` reads a file, applies ``KEY=VALUE`` overrides and reports all faults at once; `expand` turns the lists
under ``[sweep]`` into one scenario a cell.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from kvsim.errors import ScenarioError
from kvsim.models import SHAPES, DType, ModelShape
from kvsim.strict import Listed, Strict, faults_of, leaves_at, nearest, parse_toml, read_toml, validate, value_at
from kvsim.types import UNIT_TOKENS, Partition
from kvsim.units import parse_bytes

SCHEMA_VERSION = 1

MAX_CELLS = 10_000
"""Most combinations that ``[sweep]`` may ask for."""

CHANNELS = ("mass", "estimate:quest", "estimate:mean", "speculate:next-layer")
"""Score channels that captures hold; a trace may name other estimates."""


def _is_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError(
            f"should be up to 64 letters, digits, '_', '.' and '-', a letter or digit first; found {value[:60]!r}"
        )
    return value


def _is_shape(value: str | ModelShape) -> str | ModelShape:
    if isinstance(value, str) and value not in SHAPES:
        raise ValueError(f"unknown shape {value!r} (a name, or a table of all sizes){nearest(value, SHAPES)}")
    return value


def _is_channel(value: str) -> str:
    if value not in CHANNELS and not re.fullmatch(r"(estimate|speculate):[a-z0-9-]+", value):
        raise ValueError(f"unknown channel {value!r}{nearest(value, CHANNELS)}")
    return value


def _is_whole_units(value: int) -> int:
    if value % UNIT_TOKENS:
        raise ValueError(f"should be a multiple of {UNIT_TOKENS} (the unit of a trace), found {value}")
    return value


def _is_memory(value: int) -> int:
    if value >= 2**62:
        raise ValueError(f"should be less than 4 EiB, found {value}")
    return value


def _as_bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes(value)
    except ScenarioError as problem:
        raise ValueError(str(problem)) from None


def _as_policy(value: Any) -> Any:
    if not isinstance(value, str | dict | PolicyChoice):
        raise ValueError(f"should be a name in quotes or a table with a name, found {value!r}"[:120])
    return {"name": value} if isinstance(value, str) else value


SizeBytes: TypeAlias = Annotated[PositiveInt, BeforeValidator(_as_bytes), AfterValidator(_is_memory)]
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

    shape: Annotated[str | ModelShape, AfterValidator(_is_shape)]
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

    policies: Listed[Annotated[PolicyChoice, BeforeValidator(_as_policy)]] = Field(min_length=1)
    batch: PositiveInt = 1
    repetitions: PositiveInt = 1
    warmup_steps: NonNegativeInt = 8
    """First steps of every repetition that no figure counts."""
    seed: NonNegativeInt = 0
    prefill_chunk_tokens: PositiveInt = 512


class Measure(Strict):
    """How the experiment is run for real: `kvsim measure` and `kvsim crosscheck`; the simulation needs none of it."""

    prompt_tokens: PositiveInt
    """Tokens of context before the first step."""
    text: str = "python-docs"
    """What is read: ``python-docs`` (Python's own help topics), ``python-code``, or a UTF-8 text file."""
    num_steps: PositiveInt = 40
    repeats: PositiveInt = 3
    """Uninstrumented runs of every cell; one instrumented run comes besides."""


class Output(Strict):
    """Where results go."""

    folder: str = "results"
    figures: bool = True


class Scenario(Strict):
    """One experiment."""

    schema_version: Literal[1]
    name: Annotated[str, AfterValidator(_is_name)]
    question: str = ""
    model: ModelChoice
    profile: ProfileChoice
    trace: TraceChoice
    page_tokens: Annotated[PositiveInt, AfterValidator(_is_whole_units)]
    budget: Budget
    selector: SelectorChoice
    prefetch: Prefetch = Prefetch()
    run: RunChoice
    measure: Measure | None = None
    sweep: dict[str, Listed[Scalar]] = {}
    """Dotted fields and the values each takes; the cells are their product."""
    exclude: Listed[dict[str, Listed[Scalar]]] = ()
    """Combinations to leave out: those whose every field named has one of the values given for it."""
    output: Output = Output()

    @property
    def hash(self) -> str:
        """A digest of everything the scenario says: equal hashes, equal results."""
        tables = self.model_dump(mode="json")
        for table, name in ((tables, "exclude"), (tables["trace"], "channel")):  # younger than the first results
            if not table[name]:
                del table[name]
        text = json.dumps(tables, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def load_scenario(path: Path, overrides: Sequence[str] = ()) -> Scenario:
    """Return the scenario in the file `path` with ``KEY=VALUE`` overrides applied.

    A value is TOML, or else text. A list sweeps its field, but for ``run.policies`` and ``exclude``, which are lists.

    Raises
    ------
    ScenarioError
        With a line for every fault: the key, what was found, what would be right, the nearest valid name.
    """
    tables = read_toml(path, ScenarioError)
    if isinstance(tables.get("sweep"), dict):
        tables["sweep"] = dict(leaves_at(tables["sweep"]))
    for override in overrides:
        _override(tables, override)
    where = f"{path} with --set" if overrides else str(path)
    faults = faults_of(Scenario, tables)
    faults += _sweep_faults(tables, known=faults)
    if faults:
        raise ScenarioError("\n".join(f"{where}: {fault}" for fault in faults))
    return validate(Scenario, tables, where=where, error=ScenarioError)


def expand(scenario: Scenario) -> list[Scenario]:
    """Return one scenario for each combination of the values under ``[sweep]``, in the file's order."""
    tables = scenario.model_dump(mode="python", exclude_unset=True)
    return [
        validate(Scenario, cell, where=scenario.name, error=ScenarioError)
        for cell in _cells(tables, scenario.sweep, scenario.exclude)
    ]


def _cells(tables: dict[str, Any], sweep: dict[str, Any], exclude: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*sweep.values()):
        cell: dict[str, Any] = copy.deepcopy(tables)
        cell["sweep"], cell["exclude"] = {}, ()
        for key, value in zip(sweep, values, strict=True):
            _set(cell, key, value)
        if not any(all(value_at(cell, key) in wanted for key, wanted in rule.items()) for rule in exclude):
            yield cell


_NOT_SWEPT = {
    "schema_version": "",
    "name": "",
    "question": "",
    "output": "",
    "sweep": "",
    "exclude": "",
    "run.policies": ": every policy of run.policies already runs in every cell",
}


def _sweep_faults(tables: dict[str, Any], known: list[str]) -> list[str]:
    """Return the faults that only swept values have, those `known` of the rest of the file left out."""
    sweep = tables.get("sweep", {})
    if not isinstance(sweep, dict) or any(fault.startswith("sweep") for fault in known):
        return []
    faults = []
    for key, values in sweep.items():
        shown = key if key.isprintable() else json.dumps(key)
        reason = _NOT_SWEPT.get(key, _NOT_SWEPT.get(key.partition(".")[0]))
        if reason is not None:
            faults.append(f"sweep: {shown} cannot be swept{reason}")
        elif not values:
            faults.append(f"sweep: {shown}: an empty list; give at least one value")
        faults += [
            f"sweep: {key} and {other} exclude each other" for other in _alternatives(key) if key < other in sweep
        ]
    num_cells = math.prod(len(values) for values in sweep.values())
    if num_cells > MAX_CELLS:
        faults.append(f"sweep: {num_cells} combinations; at most {MAX_CELLS}")
    if faults:
        return faults
    exclude = tables.get("exclude", [])
    if any(fault.startswith("exclude") for fault in known) or (faults := _exclude_faults(tables, sweep, exclude)):
        return faults
    found: dict[str, None] = {}
    num_kept = 0
    try:
        for cell in _cells(tables, sweep, exclude):
            num_kept += 1
            found |= dict.fromkeys(fault for fault in faults_of(Scenario, cell) if fault not in known)
    except ScenarioError as problem:
        found[str(problem)] = None
    return [f"sweep: {fault}" for fault in found] or ([] if num_kept else ["exclude: leaves no combination of [sweep]"])


def _exclude_faults(tables: dict[str, Any], sweep: dict[str, Any], exclude: Sequence[Any]) -> list[str]:
    """Return the faults of rules that could never apply: empty ones, and fields that the file does not give."""
    faults = ["exclude: an empty table; name the fields and values to leave out" for rule in exclude if not rule]
    return faults + [
        f"exclude: {json.dumps(key)} is neither swept nor given{nearest(key, filter(str.isprintable, sweep))}"
        for key in dict.fromkeys(key for rule in exclude for key in rule)
        if key not in sweep and value_at(tables, key) is None
    ]


def _override(tables: dict[str, Any], override: str) -> None:
    key, sign, text = (part.strip() for part in override.partition("="))
    if not sign or not key:
        raise ScenarioError(f"--set {override!r}: write KEY=VALUE, as in --set budget.pages_per_layer=64")
    value: Any = text
    try:
        parsed = parse_toml(f"value = {text}")
        value = parsed["value"] if set(parsed) == {"value"} else text
    except (ValueError, RecursionError):
        if key == "run.policies":
            value = [name.strip() for name in text.strip("[]").split(",")]
    sweep = tables.setdefault("sweep", {})
    if isinstance(sweep, dict):
        sweep.pop(key, None)
        for other in _alternatives(key):
            sweep.pop(other, None)
        if isinstance(value, list) and key not in ("run.policies", "exclude") and not key.startswith("sweep."):
            sweep[key] = value
            return
    _set(tables, key, value)


_ONE_OF = ("budget.pages_per_layer", "budget.bytes", "budget.context_frac")


def _alternatives(dotted: str) -> list[str]:
    """Return the fields that a value of `dotted` takes the place of."""
    return [other for other in _ONE_OF if other != dotted] if dotted in _ONE_OF else []


def _set(tables: dict[str, Any], dotted: str, value: Any) -> None:
    *outer, last = dotted.split(".")
    if outer and outer[0] == "sweep":
        outer, last = ["sweep"], dotted.removeprefix("sweep.")
    current = tables
    for part in outer:
        if not isinstance(current.setdefault(part, {}), dict):
            raise ScenarioError(f"{dotted}: {part} is no table, so {last!r} cannot be set in it")
        current = current[part]
    for other in _alternatives(dotted):
        current.pop(other.rpartition(".")[2], None)
    current[last] = value
