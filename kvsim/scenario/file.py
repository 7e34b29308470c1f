"""Scenario files of every experiment: one TOML file, strict, overridden by ``KEY=VALUE``, and the cells its lists make.

A file is read once (`read_scenario`) and validated once (`parse_scenario`): the result is one tree of frozen objects,
and its `cells` are one such tree for each combination of the values under ``[sweep]``. All errors are reported at once.
What a scenario of one experiment may contain is its tree, derived from `AnyScenario`.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from kvsim.errors import ScenarioError
from kvsim.scenario.digest import content_digest
from kvsim.scenario.overrides import parse_override, set_at
from kvsim.scenario.toml import Listed, Strict, leaves_at, nearest, parsed, read_text, tables_of, value_at
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


def as_bytes(value: Any) -> Any:
    """Return the bytes that a size as text means, and any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes(value)
    except ScenarioError as problem:
        raise ValueError(str(problem)) from None


SizeBytes: TypeAlias = Annotated[PositiveInt, BeforeValidator(as_bytes), AfterValidator(_is_memory)]
Fraction: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Scalar: TypeAlias = str | int | float | bool
Swept: TypeAlias = Scalar | Listed[int]
"""A value of a field that varies; those of a field that may be a list are lists too."""

Overrides: TypeAlias = Sequence[str] | Mapping[str, Any]
"""``KEY=VALUE`` texts as the command line has them, or values by dotted field. A list sweeps its field."""


Role: TypeAlias = Literal["profile", "card", "trace", "requests", "tokens", "file", "config", "model", "text"]
"""What a field names that a run reads: costs; accesses; requests; token streams; any file; weights; a text."""


class Output(Strict):
    """Where results go."""

    folder: str = "results"
    figures: bool = True


class AnyScenario(Strict):
    """What scenarios of every experiment contain."""

    one_of: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of fields of which one is given: setting one takes the others' place."""
    lists: ClassVar[tuple[str, ...]] = ("exclude",)
    """Fields that are lists: a list given for one of them is its value and sweeps nothing."""
    not_swept: ClassVar[dict[str, str]] = {}
    """Fields that cannot be swept, each with the reason, besides those of every experiment."""
    younger: ClassVar[tuple[str, ...]] = ("exclude",)
    """Dotted fields added after the first results: where unset they are left out of `hash`, which stays what it was."""

    inputs: ClassVar[dict[str, Role]] = {}
    """Dotted fields that name what a run reads: a result records the digest of each."""

    schema_version: Literal[1]
    name: Annotated[str, AfterValidator(_is_name)]
    question: str = ""
    sweep: dict[str, Listed[Swept]] = {}
    """Dotted fields and the values each takes; the cells are their product."""
    exclude: Listed[dict[str, Listed[Swept]]] = ()
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
        return content_digest(json.dumps(tables, sort_keys=True))

    @cached_property
    def cells(self) -> tuple[Self, ...]:
        """The scenario of each combination of the values under ``[sweep]``, in the file's order, validated once.

        Raises
        ------
        ScenarioError
            With a line for every error; never of a scenario that was read from a file.
        """
        cells, errors = _swept(type(self), self.model_dump(mode="python", exclude_unset=True), known=[])
        if errors:
            raise ScenarioError("\n".join(f"{self.name}: {line}" for line in errors))
        return cells

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with changed fields; its cells are its own."""
        copied = super().model_copy(update=update, deep=deep)
        vars(copied).pop("cells", None)
        return copied

    def swept_values(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of dotted fields, as those that vary have them in one cell; lists as text."""
        values = {key: self.value_at(key) for key in keys}
        return {key: ", ".join(map(str, one)) if isinstance(one, tuple) else one for key, one in values.items()}

    def value_at(self, dotted: str) -> Any:
        """Return the value of a dotted field; None where a table on the way is absent."""
        value: Any = self
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, dict) else getattr(value, part, None)
        return value


ScenarioT = TypeVar("ScenarioT", bound=AnyScenario)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioText:
    """A scenario file as it was read."""

    path: Path
    text: str
    tables: dict[str, Any]


def read_scenario(path: Path) -> ScenarioText:
    """Return the scenario file `path`, read and parsed once, not yet validated.

    Raises
    ------
    ScenarioError
        If it cannot be read or is not TOML.
    """
    text = read_text(path, ScenarioError)
    return ScenarioText(path=path, text=text, tables=tables_of(text, path, ScenarioError))


def load(tree: type[ScenarioT], path: Path, overrides: Overrides = ()) -> ScenarioT:
    """Return the scenario in the file `path`; see `parse_scenario`."""
    return parse_scenario(tree, read_scenario(path).tables, overrides, where=str(path))


def parse_scenario(
    tree: type[ScenarioT], tables: Mapping[str, Any], overrides: Overrides = (), *, where: str
) -> ScenarioT:
    """Return the scenario in `tables`, as `tree` describes it, with overrides applied, and with its cells.

    The value of a ``KEY=VALUE`` is TOML, or else text. A list sweeps its field, but for those that are lists
    (`AnyScenario.lists`), which a list of lists sweeps.

    Parameters
    ----------
    where
        Where the tables come from: what error messages begin with.

    Raises
    ------
    ScenarioError
        With a line for every error: the key, its value, what would be right, the nearest valid name.
    """
    own: dict[str, Any] = copy.deepcopy(dict(tables))
    if isinstance(own.get("sweep"), dict):
        own["sweep"] = dict(leaves_at(own["sweep"]))
    for key, value in _pairs(tree, overrides):
        _override(tree, own, key, value)
    scenario, errors = parsed(tree, own)
    cells, more = _swept(tree, own, known=errors)
    if scenario is None or more:
        how = "overrides" if isinstance(overrides, Mapping) else "--set"
        start = f"{where} with {how}" if overrides else where
        raise ScenarioError("\n".join(f"{start}: {line}" for line in [*errors, *more]))
    vars(scenario)["cells"] = cells
    return scenario


def _pairs(tree: type[AnyScenario], overrides: Overrides) -> Iterator[tuple[str, Any]]:
    """Yield the dotted field and the value of each override."""
    if isinstance(overrides, Mapping):
        yield from overrides.items()
        return
    for text in overrides:
        key, value = parse_override(text)
        if key in tree.lists and key != "exclude" and value == text.partition("=")[2].strip():  # names without quotes
            value = [name.strip() for name in value.strip("[]").split(",")]
        yield key, value


def _cells(
    tree: type[AnyScenario], tables: dict[str, Any], sweep: dict[str, Any], exclude: Sequence[Any]
) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*sweep.values()):
        cell: dict[str, Any] = copy.deepcopy(tables)
        cell["sweep"], cell["exclude"] = {}, ()
        for key, value in zip(sweep, values, strict=True):
            _set(tree, cell, key, value)
        if not any(all(value_at(cell, key) in excluded for key, excluded in rule.items()) for rule in exclude):
            yield cell


_NOT_SWEPT = dict.fromkeys(("schema_version", "name", "question", "output", "sweep", "exclude", "kind"), "")


def _swept(tree: type[ScenarioT], tables: dict[str, Any], known: list[str]) -> tuple[tuple[ScenarioT, ...], list[str]]:
    """Return the cells, and the errors that only swept values have, those `known` of the rest of the file left out."""
    sweep = tables.get("sweep", {})
    if not isinstance(sweep, dict) or any(line.startswith("sweep") for line in known):
        return (), []
    exclude = tables.get("exclude", [])
    errors = _key_errors(tree, sweep)
    if not errors and not any(line.startswith("exclude") for line in known):
        errors = _exclude_errors(tables, sweep, exclude)
    if errors or any(line.startswith("exclude") for line in known):
        return (), errors
    cells: list[ScenarioT] = []
    problems: dict[str, None] = {}
    num_cells = 0
    try:
        for cell_tables in _cells(tree, tables, sweep, exclude):
            num_cells += 1
            cell, own_errors = parsed(tree, cell_tables)
            cells += [] if cell is None else [cell]
            problems |= dict.fromkeys(line for line in own_errors if line not in known)
    except ScenarioError as problem:
        problems[str(problem)] = None
    none_left = [] if num_cells or problems else ["exclude: leaves no combination of [sweep]"]
    return tuple(cells), [f"sweep: {line}" for line in problems] + none_left


def _key_errors(tree: type[AnyScenario], sweep: Mapping[str, Any]) -> list[str]:
    """Return the errors of a sweep whatever its values: fields that cannot vary, none to vary over, too many cells."""
    errors = []
    for key, values in sweep.items():
        shown = key if key.isprintable() else json.dumps(key)
        reason = (_NOT_SWEPT | tree.not_swept).get(key, _NOT_SWEPT.get(key.partition(".")[0]))
        if reason is not None:
            errors.append(f"sweep: {shown} cannot be swept{reason}")
        elif not values:
            errors.append(f"sweep: {shown}: an empty list; give at least one value")
        errors += [
            f"sweep: {key} and {other} exclude each other" for other in _alternatives(tree, key) if key < other in sweep
        ]
    num_cells = math.prod(len(values) for values in sweep.values())
    if num_cells > MAX_CELLS:
        errors.append(f"sweep: {num_cells} combinations; at most {MAX_CELLS}")
    return errors


def _exclude_errors(tables: dict[str, Any], sweep: dict[str, Any], exclude: Sequence[Any]) -> list[str]:
    """Return the errors of rules that could never apply: empty ones, and fields that the file does not give."""
    errors = ["exclude: an empty table; name the fields and values to leave out" for rule in exclude if not rule]
    return errors + [
        f"exclude: {json.dumps(key)} is neither swept nor given{nearest(key, filter(str.isprintable, sweep))}"
        for key in dict.fromkeys(key for rule in exclude for key in rule)
        if key not in sweep and value_at(tables, key) is None
    ]


def _override(tree: type[AnyScenario], tables: dict[str, Any], key: str, value: Any) -> None:
    """Set a field, or sweep it where `value` is a list of its values, not of tables; it no longer varies otherwise."""
    sweep = tables.setdefault("sweep", {})
    if isinstance(sweep, dict):
        sweep.pop(key, None)
        for other in _alternatives(tree, key):
            sweep.pop(other, None)
        is_list = isinstance(value, list | tuple) and not any(isinstance(one, dict) for one in value)
        if key in tree.lists:
            is_list = is_list and any(isinstance(one, list | tuple) for one in value)
        if is_list and not key.startswith("sweep."):
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
