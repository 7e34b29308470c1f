"""Whose error it is: what somebody else's code raises, in a line under its name and with the lines of its own code."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

from kvsim.errors import KvsimError, PolicyError, ScenarioError

_NOT_OWN = [
    Path(folder).resolve()
    for folder in (
        str(Path(__file__).parents[1]),
        *map(sysconfig.get_paths().__getitem__, ("stdlib", "purelib", "platlib")),
    )
]
"""Where code lies that is nobody's plug-in, unless that was installed there."""


@contextmanager
def careful_import(what: str, module_name: str) -> Iterator[None]:
    """Report whatever the import of a plug-in's module raises, and keep what it prints off standard output."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        where = f"{what}: cannot import {module_name!r}"
        raise ScenarioError(account_of(problem, where, module_name, verb="")) from None


def construct(what: str, kind: type[Any], *arguments: Any, **options: Any) -> Any:
    """Return a new object of a plug-in's class, or report what its constructor raises.

    Raises
    ------
    ScenarioError
        If it refuses its arguments, by a `ValueError` or an error of kvsim's: the message is enough.
    PolicyError
        If it raises anything else.
    """
    try:
        with redirect_stdout(sys.stderr):
            return kind(*arguments, **options)
    except (ValueError, KvsimError) as problem:
        raise ScenarioError(f"{what}: {problem}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise PolicyError(account_of(problem, f"{what}: __init__", kind.__module__)) from None


def attribute(what: str, own: Any, name: str) -> Any:
    """Return an attribute of a plug-in, None where it has none; report what a property raises, the lack of it apart.

    Raises
    ------
    PolicyError
        If reading it raises anything but an AttributeError.
    """
    try:
        return getattr(own, name, None)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise PolicyError(account_of(problem, f"{what}: {name}", type(own).__module__)) from None


def is_own(kind: type[Any]) -> bool:
    """Return whether a class is kvsim's own."""
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


def account_of(problem: BaseException, where: str, module_name: str, *, verb: str = " raised") -> str:
    """Return what a plug-in raised in a line, and the lines of its own code that led there.

    Parameters
    ----------
    where
        What the line begins with.
    module_name
        The plug-in's module: code of its package is its own, wherever it is installed.
    """
    package = module_name.partition(".")[0]
    frames = [
        traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(problem.__traceback__)
        if _is_own(frame, package)
    ]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    name = "" if isinstance(problem, ImportError) else f"{type(problem).__name__}: "
    message = " ".join(f"{name}{_text_of(problem)}".split()).rstrip(": ")
    first = f"{where}{verb}{'' if verb else ':'} {message}{place}"
    return "\n".join([first, *(line.rstrip("\n") for line in traceback.format_list(frames))])


def _text_of(problem: BaseException) -> str:
    """Return what an exception says; nothing where its own class fails to say it."""
    try:
        return str(problem)
    except Exception:
        return ""


def _is_own(frame: FrameType, package: str) -> bool:
    if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package:
        return True
    file = frame.f_code.co_filename
    return not file.startswith("<") and not any(Path(file).resolve().is_relative_to(folder) for folder in _NOT_OWN)
