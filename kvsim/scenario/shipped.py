"""Finds scenarios, profiles and captures: shipped ones by name (installed or in a checkout), others by path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from kvsim.errors import CalibrationError, KvsimError, ScenarioError, TraceError
from kvsim.scenario.decode import Scenario
from kvsim.scenario.toml import nearest, parse_toml, validate
from kvsim.scenario.whole_files import write_whole

CAPTURE_SUFFIX = ".kvtrace"
"""How the name of an access trace ends."""

GENERATOR_SUFFIX = ".generator.toml"
"""How the name of a generator that was fitted to a capture ends, behind the page size: ``smollm2-docs-page64``."""

REQUESTS_SUFFIX = ".requests.jsonl.gz"
"""How the name of a request trace that ships ends; others may be called anything."""

TOKENS_SUFFIX = ".tokens.jsonl.gz"
"""How the name of a token stream that ships ends; others may be called anything."""

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder(kind: str) -> Path:
    """Return the folder of the shipped ``scenarios``, ``profiles`` or ``captures``.

    An installed package carries them inside itself; in a checkout they lie beside it.
    """
    installed = _PACKAGE / "_shipped" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def shipped(kind: str, suffix: str) -> dict[str, Path]:
    """Return what ships of one kind, by name, in the order of the names."""
    return {path.name.removesuffix(suffix): path for path in sorted(shipped_folder(kind).glob(f"*{suffix}"))}


def shipped_scenarios() -> dict[str, Path]:
    """Return the scenarios that ship, by name."""
    return shipped("scenarios", ".toml")


def find_scenario(name_or_path: str) -> Path:
    """Return the file of a shipped scenario, or of one given by path.

    Raises
    ------
    ScenarioError
        If there is none.
    """
    return _find(name_or_path, "scenario", ".toml", None, ScenarioError)


def find_profile(name_or_path: str, beside: Path | None = None) -> Path:
    """Return the file of a shipped profile, or of one given by path; `beside` as in `find_capture`.

    Raises
    ------
    CalibrationError
        If there is none.
    """
    return _find(name_or_path, "profile", ".toml", beside, CalibrationError)


def find_capture(name_or_path: str, beside: Path | None = None) -> Path:
    """Return the file of a shipped capture, or of one given by path.

    A path is taken from the current folder and, failing that, from `beside`: the folder of the scenario that
    names it.

    Raises
    ------
    TraceError
        If there is none.
    """
    return _find(name_or_path, "capture", CAPTURE_SUFFIX, beside, TraceError)


def find_generator(capture: Path, page_tokens: int) -> Path | None:
    """Return the file of the generator that ships for a capture that ships, at one page size; None without one."""
    if shipped("captures", CAPTURE_SUFFIX).get(capture.stem) != capture:
        return None
    return shipped("captures", GENERATOR_SUFFIX).get(f"{capture.stem}-page{page_tokens}")


def find_requests(name_or_path: str, beside: Path | None = None) -> Path:
    """Return the file of a shipped request trace, or of one given by path; `beside` as in `find_capture`.

    Raises
    ------
    TraceError
        If there is none.
    """
    return _find_stream(name_or_path, "request trace", REQUESTS_SUFFIX, beside)


def find_tokens(name_or_path: str, beside: Path | None = None) -> Path:
    """Return the file of a shipped token stream, or of one given by path; `beside` as in `find_capture`.

    Raises
    ------
    TraceError
        If there is none.
    """
    return _find_stream(name_or_path, "token stream", TOKENS_SUFFIX, beside)


def _find_stream(name_or_path: str, kind: str, suffix: str, beside: Path | None) -> Path:
    """Return a file that ships with the captures by its name, or any by its path."""
    known = shipped("captures", suffix)
    if name_or_path in known:
        return known[name_or_path]
    place = next(_places(name_or_path, beside), None)
    if place is not None:
        return place
    hint = nearest(name_or_path, known) if "/" not in name_or_path else ""
    raise TraceError(name_or_path, f"no such {kind}{hint}")


def near(path: str, base_dir: Path | None) -> str:
    """Return `path`, or the same relative to `base_dir` where only that exists."""
    if base_dir is not None and not Path(path).exists() and (base_dir / path).exists():
        return str(base_dir / path)
    return path


def write_template(name: str) -> Path:
    """Write a commented scenario called `name` to ``name.toml``, and return that file.

    Raises
    ------
    ScenarioError
        If the file is already there, cannot be written, or the name is none that a scenario can have.
    """
    path = Path(name if name.endswith(".toml") else f"{name}.toml")
    text = (
        Path(__file__).with_name("template.toml").read_text(encoding="utf-8").replace('"NAME"', json.dumps(path.stem))
    )
    validate(Scenario, parse_toml(text), where=str(path), error=ScenarioError)
    if _exists(path):
        raise ScenarioError(f"{path}: already there; choose another name, or remove it")
    try:
        write_whole(path, text.encode())
    except OSError as problem:
        raise ScenarioError(f"{path}: cannot write: {problem.strerror}") from None
    return path


def _find(name_or_path: str, noun: str, suffix: str, beside: Path | None, error: type[KvsimError]) -> Path:
    """Return the file that is meant: a shipped one of this name, else that of this path."""
    is_name = "/" not in name_or_path and not name_or_path.endswith(suffix)
    known = shipped(f"{noun}s", suffix) if is_name else {}
    if name_or_path in known:
        return known[name_or_path]
    place = next((place for place in _places(name_or_path, beside) if place.is_file() or not is_name), None)
    if place is not None:
        return place
    problem = f"no such {noun} file" + ("" if beside is None else f" here, nor in {beside}")
    if is_name:
        problem = f"no {noun} of this name ships with kvsim{nearest(name_or_path, known)} (a path ends in {suffix})"
    raise TraceError(name_or_path, problem) if error is TraceError else error(f"{name_or_path}: {problem}")


def _places(path: str, beside: Path | None) -> Iterator[Path]:
    """Yield what exists of `path` in the current folder and in `beside`."""
    return (folder / path for folder in (Path(), *([beside] if beside else [])) if _exists(folder / path))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than any file has
        return False
