"""A TOML file as a strict frozen model: all of a file's errors at once, each with its key and the nearest valid name."""

from __future__ import annotations

import difflib
import tomllib
import typing
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from kvsim.errors import KvsimError

MAX_FILE_BYTES = 64 * 2**20
"""No scenario or profile is larger; a larger file is refused before it is parsed."""


class Strict(BaseModel):
    """The manners of every model read from a file: strict, frozen, unknown keys and non-finite numbers refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=BaseModel)


def read_toml(path: Path, error: type[KvsimError]) -> dict[str, Any]:
    """Return the tables of a TOML file; anything unreadable is raised as `error` in one line."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise error(f"{path}: larger than {MAX_FILE_BYTES // 2**20} MiB, which no file of this kind is")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except IsADirectoryError:
        raise error(f"{path}: a folder, where a TOML file is wanted") from None
    except OSError as problem:
        raise error(f"{path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise error(f"{path}: not UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise error(f"{path}: not valid TOML: {problem}") from None


def validate(model: type[ModelT], tables: dict[str, Any], *, where: str, error: type[KvsimError]) -> ModelT:
    """Return `tables` as a `model`, or raise one `error` whose lines name every fault.

    Each line gives the key, what was found, what would be right and, for an unknown key, the nearest valid one.
    """
    try:
        return model.model_validate(tables)
    except ValidationError as problem:
        faults = [_fault(model, fault) for fault in problem.errors(include_url=False)]
        raise error("\n".join(f"{where}: {fault}" for fault in dict.fromkeys(faults))) from None


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest of `known`, else their list.

    Examples
    --------
    >>> nearest("lur", ["lru", "stream"])
    "; did you mean 'lru'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def _fault(model: type[BaseModel], fault: Any) -> str:
    location: tuple[Any, ...] = fault["loc"]
    key = ".".join(str(part) for part in location if not _is_tag(part)) or "(the whole file)"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(str(location[-1]), _fields_at(model, location[:-1]))}"
    if fault["type"] == "missing":
        return f"{key}: missing; it has no default"
    message = str(fault["msg"]).removeprefix("Value error, ")
    found = fault.get("input")
    shown = "" if isinstance(found, dict | list) or fault["type"] == "value_error" else f", found {found!r}"
    return f"{key}: {message[:1].lower() + message[1:]}{shown}"


def _is_tag(part: Any) -> bool:
    return isinstance(part, str) and (part.startswith("function-") or part.endswith("]") or part in _TYPE_TAGS)


_TYPE_TAGS = {"str", "int", "float", "bool"}


def _fields_at(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    current: list[type[BaseModel]] = [model]
    for part in path:
        current = [
            inner
            for outer in current
            if part in outer.model_fields
            for inner in _models_in(outer.model_fields[str(part)].annotation)
        ] or current
    return [name for inner in current for name in inner.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
