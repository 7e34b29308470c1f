"""A TOML file as a strict frozen model: all of its errors at once, each with its key and the nearest valid name."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from kvsim.errors import KvsimError
from kvsim.scenario.regular_files import read_text as read_file


class Strict(BaseModel):
    """The manners of every model read from a file: strict, frozen, unknown keys and non-finite numbers refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=BaseModel)
_T = TypeVar("_T")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Listed: TypeAlias = Annotated[tuple[_T, ...], BeforeValidator(_as_tuple)]
"""An array of a TOML file, as a tuple."""


def read_toml(path: Path, error: type[KvsimError]) -> dict[str, Any]:
    """Return the tables of a TOML file; anything unreadable is raised as `error` in one line."""
    return tables_of(read_text(path, error), path, error)


def read_text(path: Path, error: type[KvsimError]) -> str:
    """Return the text of a file; anything unreadable is raised as `error` in one line."""
    try:
        return read_file(path)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as problem:
        raise error(f"{path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise error(f"{path}: not UTF-8 text") from None
    except ValueError as problem:  # a null byte in the name
        raise error(f"{path}: not a file name: {problem}") from None


def tables_of(text: str, path: Path, error: type[KvsimError]) -> dict[str, Any]:
    """Return the tables of the `text` of a TOML file; what is not TOML is raised as `error` in one line."""
    try:
        return parse_toml(text)
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: not valid TOML: {problem}") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables that TOML `text` says.

    Raises
    ------
    ValueError
        If it is no TOML, or holds an integer of more than the 64 bits that TOML promises.
    """
    tables = tomllib.loads(text)
    for value in _leaves(tables):
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("an integer of more than 64 bits")
    return tables


def validate(model: type[ModelT], tables: dict[str, Any], *, where: str, error: type[KvsimError]) -> ModelT:
    """Return `tables` as a `model`, or raise one `error` whose lines name every mistake.

    Each line gives the key, what was found, what would be right and, for an unknown key, the nearest valid one.
    """
    value, details = parsed(model, tables)
    if value is None:
        raise error("\n".join(f"{where}: {detail}" for detail in details))
    return value


def leaves_at(table: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield a table's values by dotted key, so that ``a.b = [1]`` and ``"a.b" = [1]`` say the same."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from leaves_at(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def value_at(tables: dict[str, Any], dotted: str) -> Any:
    """Return the value at a dotted key of nested tables, None where there is none.

    Examples
    --------
    >>> value_at({"run": {"seed": 7}}, "run.seed"), value_at({"run": {}}, "run.seed.x")
    (7, None)
    """
    value: Any = tables
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def parsed(model: type[ModelT], tables: dict[str, Any]) -> tuple[ModelT | None, list[str]]:
    """Return `tables` as a `model`, None where that cannot be, and every error, one line each."""
    try:
        return model.model_validate(tables), []
    except ValidationError as problem:
        return None, _errors(model, tables, problem)


_NUM_LETTERS = 4
"""From so many letters on, a name that only goes on is nearer than one of the same length."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of `known`, else their list.

    Examples
    --------
    >>> nearest("lur", ["lru", "stream"])
    "; did you mean 'lru'?"
    >>> nearest("rtx-4080", ["rtx-4080-super", "rtx-5080"])
    "; did you mean 'rtx-4080-super'?"
    """
    names = sorted(known)
    close = _closest(name, names)
    if close:
        return f"; did you mean {close!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def _closest(name: str, names: list[str]) -> str | None:
    longer = sorted((known for known in names if len(name) >= _NUM_LETTERS and known.startswith(name)), key=len)
    close = longer or difflib.get_close_matches(name[:200], names, n=1, cutoff=0.6)
    return close[0] if close else None


def _leaves(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
        else:
            yield item


Key: TypeAlias = tuple[Any, ...]

_EXPECTED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}
"""What would be right, by pydantic's type of error: those that only say that the type is another."""


_WORDS = {
    "less than or equal to": "at most",
    "greater than or equal to": "at least",
    " item after validation, not 0": " entry",
}


def _errors(model: type[BaseModel], tables: dict[str, Any], problem: ValidationError) -> list[str]:
    """Return one line an error: alternatives of one key in one line, and a misspelt key not also as a missing one."""
    by_key: dict[Key, list[Any]] = {}
    for detail in problem.errors(include_url=False):
        by_key.setdefault(_key_of(detail, tables), []).append(detail)
    lines: dict[Key, str] = {}
    meant: set[Key] = set()
    for key, details in by_key.items():
        if any(detail["type"] == "extra_forbidden" for detail in details):
            lines[key], intended = _unknown(model, key)
            meant.add(intended)
    for key, details in by_key.items():
        if key in lines or (key in meant and details[0]["type"] == "missing"):
            continue
        is_outer = any(other != key and other[: len(key)] == key for other in by_key)
        if is_outer and all(detail["type"] in _EXPECTED for detail in details):
            continue  # another alternative fitted better: its own errors, inside this key, are reported
        lines[key] = f"{_shown_key(key)}: {_explained(details)}"
    return [lines[key] for key in by_key if key in lines]


def _key_of(detail: Any, tables: dict[str, Any]) -> Key:
    """Return the place in the file: pydantic's location without the tags of the alternatives that it tried."""
    key: list[Any] = []
    current: Any = tables
    for part in detail["loc"]:
        is_index = isinstance(part, int) and isinstance(current, list | tuple) and part < len(current)
        if is_index or (isinstance(current, dict) and part in current):
            current = current[part]
        elif _is_tag(part):
            continue
        key.append(part)
    return tuple(key)


def _is_tag(part: Any) -> bool:
    return isinstance(part, str) and (part in _TAGS or part.endswith("]") or part[:1].isupper())


_TAGS = {"str", "int", "float", "bool", "constrained-int", "constrained-float", "constrained-str"}


def _unknown(model: type[BaseModel], key: Key) -> tuple[str, Key]:
    """Return the line for an unknown key, and the key that was probably meant."""
    name, known = str(key[-1]), _fields_at(model, key[:-1])
    line = f"unknown key {_shown_key(key)!r}"
    elsewhere = next((path for path in _paths(model) if path[-1] == name), None)
    if elsewhere:
        return f"{line}; did you mean {_shown_key(elsewhere)!r}?", elsewhere
    close = _closest(name, known)
    if close:
        return f"{line}; did you mean {close!r}?", (*key[:-1], close)
    if len(key) == 1:
        return f"{line}; the nearest are {', '.join(_nearest_paths(model, name))}", ()
    return line + nearest(name, known), ()


def _nearest_paths(model: type[BaseModel], name: str) -> list[str]:
    """Return the full keys of three fields whose own names are nearest."""
    by_name: dict[str, str] = {}
    for path in _paths(model):
        by_name.setdefault(path[-1], _shown_key(path))
    close = difflib.get_close_matches(name[:200], by_name, n=3, cutoff=0.0)
    return [by_name[one] for one in close]


def _explained(details: list[Any]) -> str:
    """Return what is wrong with one key, of which each detail is about one alternative."""
    precise = [detail for detail in details if detail["type"] not in _EXPECTED]
    if not precise:
        expected = list(dict.fromkeys(_EXPECTED[detail["type"]] for detail in details))
        if "a number" in expected and "a whole number" in expected:
            expected.remove("a whole number")
        return f"should be {' or '.join(expected)}, found {_shown(details[0]['input'])}"
    detail = precise[0]
    if detail["type"] == "missing":
        return "missing; it has no default"
    message = str(detail["msg"]).removeprefix("Value error, ").removeprefix("Input ").removeprefix("Tuple ")
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    if detail["type"] == "value_error":
        return message
    hint = ""
    if detail["type"] == "literal_error" and isinstance(detail["input"], str):
        close = _closest(detail["input"], re.findall(r"'([^']+)'", str(detail["ctx"]["expected"])))
        hint = f"; did you mean {close!r}?" if close else ""
    return f"{message[:1].lower() + message[1:]}, found {_shown(detail['input'])}{hint}"


def _shown(value: Any) -> str:
    """Return `value` as a file would say it, cut to a length that a line bears."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str | int | float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _shown_key(key: Key) -> str:
    """Return a dotted key as TOML writes it, quoted where it must be."""
    if not key:
        return "the file"
    parts = (str(part)[:60] for part in key)
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else json.dumps(part) for part in parts)


def _fields_at(model: type[BaseModel], path: Key) -> list[str]:
    current: list[type[BaseModel]] = [model]
    for part in path:
        current = _models_under(current, part) or current  # a place in a list, or a free key of a table of models
    return [name for inner in current for name in inner.model_fields]


def _models_under(models: list[type[BaseModel]], name: Any) -> list[type[BaseModel]]:
    fields = (model.model_fields[name] for model in models if name in model.model_fields)
    return [inner for field in fields for inner in _models_in(field.annotation)]


def _paths(model: type[BaseModel]) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        yield (name,)
        for inner in _models_in(field.annotation):
            yield from ((name, *rest) for rest in _paths(inner))


def field_types(model: type[BaseModel], dotted: str) -> set[type]:
    """Return the plain types that a dotted field takes; none where there is no such field.

    Examples
    --------
    >>> class Room(Strict):
    ...     size: int | None = None
    >>> sorted(kind.__name__ for kind in field_types(Room, "size"))
    ['NoneType', 'int']
    >>> field_types(Room, "door.size")
    set()
    """
    *outer, last = dotted.split(".")
    models = [model]
    for part in outer:
        models = _models_under(models, part)
    annotations = [one.model_fields[last].annotation for one in models if last in one.model_fields]
    return {kind for annotation in annotations for kind in _types_in(annotation)}


def _types_in(annotation: Any) -> set[type]:
    if isinstance(annotation, type):
        return {annotation}
    return {kind for argument in typing.get_args(annotation) for kind in _types_in(argument)}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
