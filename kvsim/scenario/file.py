"""Scenario files of every kind: one TOML file, strict, overridden by ``KEY=VALUE``, and the cells its lists make.

`load` reads a file as one tree of frozen objects and reports all faults at once; `expand_cells` turns the lists under
``[sweep]`` into one scenario a cell. What a scenario of one kind may say is its tree, derived from `AnyScenario`.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from kvsim.errors import ScenarioError
from kvsim.scenario.digest import content_digest
from kvsim.scenario.overrides import parse_override, set_at
from kvsim.scenario.toml import Listed, Strict, faults_of, leaves_at, nearest, read_toml, validate, value_at
from kvsim.units import parse_bytes

SCHEMA_VERSION = 1

MAX_CELLS = 10_000
"""Most combinations that ``[sweep]`` may ask for."""


def _is_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", value):
        raise ValueError(
            f"should be up to 64 letters, digits, '_', '.' and '-', a letter or digit first; found {value[:60]!r}"
        )
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


SizeBytes: TypeAlias = Annotated[PositiveInt, BeforeValidator(_as_bytes), AfterValidator(_is_memory)]
Fraction: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Scalar: TypeAlias = str | int | float | bool


class Output(Strict):
    """Where results go."""

    folder: str = "results"
    figures: bool = True


class AnyScenario(Strict):
    """What scenarios of every kind say."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of fields of which one is given: setting one takes the others' place."""
    lists: ClassVar[tuple[str, ...]] = ("exclude",)
    """Fields that are lists: a list given for one of them is its value and sweeps nothing."""
    not_swept: ClassVar[dict[str, str]] = {}
    """Fields that cannot be swept, each with what to say of it, beside those of every kind."""
    younger: ClassVar[tuple[str, ...]] = ("exclude",)
    """Dotted fields added after the first results: where unset they are left out of `hash`, which stays what it was."""

    schema_version: Literal[1]
    name: Annotated[str, AfterValidator(_is_name)]
    question: str = ""
    sweep: dict[str, Listed[Scalar]] = {}
    """Dotted fields and the values each takes; the cells are their product."""
    exclude: Listed[dict[str, Listed[Scalar]]] = ()
    """Combinations to leave out: those whose every field named has one of the values given for it."""
    output: Output = Output()

    @property
    def hash(self) -> str:
        """A digest of everything the scenario says: equal hashes, equal results."""
        tables = self.model_dump(mode="json")
        for dotted in self.younger:
            *outer, last = dotted.split(".")
            table = value_at(tables, ".".join(outer)) if outer else tables
            if not table[last]:
                del table[last]
        text = json.dumps(tables, sort_keys=True)
        return content_digest(text)


ScenarioT = TypeVar("ScenarioT", bound=AnyScenario)


def load(tree: type[ScenarioT], path: Path, overrides: Sequence[str] = ()) -> ScenarioT:
    """Return the scenario in the file `path`, as `tree` describes it, with ``KEY=VALUE`` overrides applied.

    A value is TOML, or else text. A list sweeps its field, but for those that are lists (`AnyScenario.lists`).

    Raises
    ------
    ScenarioError
        With a line for every fault: the key, what was found, what would be right, the nearest valid name.
    """
    tables = read_toml(path, ScenarioError)
    if isinstance(tables.get("sweep"), dict):
        tables["sweep"] = dict(leaves_at(tables["sweep"]))
    for override in overrides:
        _override(tree, tables, override)
    where = f"{path} with --set" if overrides else str(path)
    faults = faults_of(tree, tables)
    faults += _sweep_faults(tree, tables, known=faults)
    if faults:
        raise ScenarioError("\n".join(f"{where}: {fault}" for fault in faults))
    return validate(tree, tables, where=where, error=ScenarioError)


def expand_cells(scenario: ScenarioT) -> list[ScenarioT]:
    """Return one scenario for each combination of the values under ``[sweep]``, in the file's order."""
    tables = scenario.model_dump(mode="python", exclude_unset=True)
    return [
        validate(type(scenario), cell, where=scenario.name, error=ScenarioError)
        for cell in _cells(type(scenario), tables, scenario.sweep, scenario.exclude)
    ]


def _cells(
    tree: type[AnyScenario], tables: dict[str, Any], sweep: dict[str, Any], exclude: Sequence[Any]
) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*sweep.values()):
        cell: dict[str, Any] = copy.deepcopy(tables)
        cell["sweep"], cell["exclude"] = {}, ()
        for key, value in zip(sweep, values, strict=True):
            _set(tree, cell, key, value)
        if not any(all(value_at(cell, key) in wanted for key, wanted in rule.items()) for rule in exclude):
            yield cell


_NOT_SWEPT = {
    "schema_version": "",
    "name": "",
    "question": "",
    "output": "",
    "sweep": "",
    "exclude": "",
    "kind": "",
}


def _sweep_faults(tree: type[AnyScenario], tables: dict[str, Any], known: list[str]) -> list[str]:
    """Return the faults that only swept values have, those `known` of the rest of the file left out."""
    sweep = tables.get("sweep", {})
    if not isinstance(sweep, dict) or any(fault.startswith("sweep") for fault in known):
        return []
    faults = []
    for key, values in sweep.items():
        shown = key if key.isprintable() else json.dumps(key)
        reason = (_NOT_SWEPT | tree.not_swept).get(key, _NOT_SWEPT.get(key.partition(".")[0]))
        if reason is not None:
            faults.append(f"sweep: {shown} cannot be swept{reason}")
        elif not values:
            faults.append(f"sweep: {shown}: an empty list; give at least one value")
        faults += [
            f"sweep: {key} and {other} exclude each other" for other in _alternatives(tree, key) if key < other in sweep
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
        for cell in _cells(tree, tables, sweep, exclude):
            num_kept += 1
            found |= dict.fromkeys(fault for fault in faults_of(tree, cell) if fault not in known)
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


def _override(tree: type[AnyScenario], tables: dict[str, Any], override: str) -> None:
    key, value = parse_override(override)
    if key in tree.lists and key != "exclude" and value == override.partition("=")[2].strip():  # names without quotes
        value = [name.strip() for name in value.strip("[]").split(",")]
    sweep = tables.setdefault("sweep", {})
    if isinstance(sweep, dict):
        sweep.pop(key, None)
        for other in _alternatives(tree, key):
            sweep.pop(other, None)
        if isinstance(value, list) and key not in tree.lists and not key.startswith("sweep."):
            sweep[key] = value
            return
    _set(tree, tables, key, value)


def _alternatives(tree: type[AnyScenario], dotted: str) -> list[str]:
    """Return the fields that a value of `dotted` takes the place of."""
    return [other for group in tree.one_of if dotted in group for other in group if other != dotted]


def _set(tree: type[AnyScenario], tables: dict[str, Any], dotted: str, value: Any) -> None:
    path = ["sweep", dotted.removeprefix("sweep.")] if dotted.startswith("sweep.") else dotted.split(".")
    set_at(tables, path, value)
    for other in _alternatives(tree, dotted):
        value_at(tables, ".".join(path[:-1])).pop(other.rpartition(".")[2], None)
