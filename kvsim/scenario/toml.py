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

MAX_FILE_BYTES = 64 * 2**20
"""No scenario or profile is larger; a larger file is refused before it is parsed."""


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
        if path.stat().st_size > MAX_FILE_BYTES:
            raise error(f"{path}: larger than {MAX_FILE_BYTES // 2**20} MiB, which no file of this kind is")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except IsADirectoryError:
        raise error(f"{path}: a folder, where a TOML file is wanted") from None
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
    """Return `tables` as a `model`, or raise one `error` whose lines name every fault.

    Each line gives the key, what was found, what would be right and, for an unknown key, the nearest valid one.
    """
    try:
        return model.model_validate(tables)
    except ValidationError as problem:
        raise error("\n".join(f"{where}: {fault}" for fault in _faults(model, tables, problem))) from None


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


def faults_of(model: type[BaseModel], tables: dict[str, Any]) -> list[str]:
    """Return every fault of `tables` as a `model`, one line each; none where it is valid."""
    return parsed(model, tables)[1]


def parsed(model: type[ModelT], tables: dict[str, Any]) -> tuple[ModelT | None, list[str]]:
    """Return `tables` as a `model`, None where that cannot be, and every error, one line each."""
    try:
        return model.model_validate(tables), []
    except ValidationError as problem:
        return None, _faults(model, tables, problem)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of `known`, else their list.

    Examples
    --------
    >>> nearest("lur", ["lru", "stream"])
    "; did you mean 'lru'?"
    """
    names = sorted(known)
    close = _closest(name, names)
    if close:
        return f"; did you mean {close!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def _closest(name: str, names: list[str]) -> str | None:
    close = difflib.get_close_matches(name[:200], names, n=1, cutoff=0.6)
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


Key: typing.TypeAlias = tuple[Any, ...]

_WANTED = {
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


def _faults(model: type[BaseModel], tables: dict[str, Any], problem: ValidationError) -> list[str]:
    """Return one line a fault: alternatives of one key in one line, and a misspelt key not also as a missing one."""
    by_key: dict[Key, list[Any]] = {}
    for fault in problem.errors(include_url=False):
        by_key.setdefault(_key_of(fault, tables), []).append(fault)
    lines: dict[Key, str] = {}
    meant: set[Key] = set()
    for key, faults in by_key.items():
        if any(fault["type"] == "extra_forbidden" for fault in faults):
            lines[key], intended = _unknown(model, key)
            meant.add(intended)
    for key, faults in by_key.items():
        if key in lines or (key in meant and faults[0]["type"] == "missing"):
            continue
        is_outer = any(other != key and other[: len(key)] == key for other in by_key)
        if is_outer and all(fault["type"] in _WANTED for fault in faults):
            continue  # another alternative fitted better: its own faults, inside this key, are told
        lines[key] = f"{_shown_key(key)}: {_told(faults)}"
    return [lines[key] for key in by_key if key in lines]


def _key_of(fault: Any, tables: dict[str, Any]) -> Key:
    """Return the place in the file: pydantic's location without the tags of the alternatives that it tried."""
    key: list[Any] = []
    current: Any = tables
    for part in fault["loc"]:
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
    return line + nearest(name, known), ()


def _told(faults: list[Any]) -> str:
    """Return what is wrong with one key, of which each fault speaks for one alternative."""
    precise = [fault for fault in faults if fault["type"] not in _WANTED]
    if not precise:
        wanted = list(dict.fromkeys(_WANTED[fault["type"]] for fault in faults))
        if "a number" in wanted and "a whole number" in wanted:
            wanted.remove("a whole number")
        return f"should be {' or '.join(wanted)}, found {_shown(faults[0]['input'])}"
    fault = precise[0]
    if fault["type"] == "missing":
        return "missing; it has no default"
    message = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input ").removeprefix("Tuple ")
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    if fault["type"] == "value_error":
        return message
    hint = ""
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        close = _closest(fault["input"], re.findall(r"'([^']+)'", str(fault["ctx"]["expected"])))
        hint = f"; did you mean {close!r}?" if close else ""
    return f"{message[:1].lower() + message[1:]}, found {_shown(fault['input'])}{hint}"


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
        inner_models = [
            inner
            for outer in current
            if part in outer.model_fields
            for inner in _models_in(outer.model_fields[str(part)].annotation)
        ]
        current = inner_models or current  # a place in a list, or a free key of a table of models
    return [name for inner in current for name in inner.model_fields]


def _paths(model: type[BaseModel]) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        yield (name,)
        for inner in _models_in(field.annotation):
            yield from ((name, *rest) for rest in _paths(inner))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
