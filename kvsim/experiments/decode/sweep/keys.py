"""What a cell's figures depend on, as one digest: whatever could change a figure changes the key."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import kvsim
from kvsim.errors import ResultError
from kvsim.experiments.decode.cells import Cell
from kvsim.experiments.decode.provenance import plug_in_codes
from kvsim.scenario.digest import content_digest, file_digest
from kvsim.scenario.shipped import find_capture, find_profile

_DECIDING = ("numpy", "numba", "simpy")
"""Packages whose versions may change a figure's last digit."""

_NOT_READ = {"schema_version", "name", "question", "output", "sweep", "exclude", "measure"}
"""Fields that the simulation of a cell does not read, the files it names apart."""


def cell_keys(cells: Sequence[Cell], base_dir: Path | None) -> list[str]:
    """Return the key of each cell, 32 hexadecimal digits.

    A key covers the cell's own values, the contents of its profile and trace, kvsim's source code, that of a plug-in
    with everything that it imports from its own package or folder (`kvsim.policies.source_code`), and the versions of
    numpy, numba and simpy.

    Parameters
    ----------
    base_dir
        Where relative paths of the scenario start, if not here.

    Raises
    ------
    KvsimError
        If a file that a cell names is not there or cannot be read.
    """
    content = functools.cache(_digest)
    known_codes: dict[str, dict[str, str | None]] = {}

    def codes(cell: Cell) -> dict[str, str | None]:
        choice = cell.choice.model_dump_json()
        if choice not in known_codes:
            known_codes[choice] = plug_in_codes(cell)
        return known_codes[choice]

    keys = []
    for cell in cells:
        scenario = cell.scenario
        read: dict[str, Any] = scenario.model_dump(mode="json", exclude=_NOT_READ)
        read["run"].pop("policies")
        read["profile"]["path"] = _profile_digest(cell, content, base_dir)
        read["trace"]["path"] = content(find_capture(scenario.trace.path, base_dir))
        read |= {"policy": cell.choice.model_dump(mode="json"), "swept": list(cell.swept.items())}
        read |= {"code": _own_code(), "versions": _versions(), "policy_code": sorted(codes(cell).items())}
        keys.append(content_digest(json.dumps(read, sort_keys=True), num_bytes=16))
    return keys


def _profile_digest(cell: Cell, content: Callable[[Path], str], base_dir: Path | None) -> str:
    """Return the digest of the profile's file, or of what was estimated."""
    path = cell.scenario.profile.path
    if path is None:
        return content_digest(cell.profile.model_dump_json(), num_bytes=16)
    return content(find_profile(path, base_dir))


@functools.cache
def _own_code() -> str:
    """Return a digest of kvsim's source: a version number does not change with every change of a line."""
    parts: list[str | bytes] = [kvsim.__version__]
    folder = Path(kvsim.__file__).resolve().parent
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(("cli/", "__main__", "report/", "engine/", "calibration/", "experiments/decode/sweep/")):
            parts += [name, path.read_bytes()]
    figures = "experiments/decode/report/summary.py"  # what turns rows into figures
    parts += [figures, (folder / figures).read_bytes()]
    return content_digest(*parts, num_bytes=16)


@functools.cache
def _versions() -> tuple[str, ...]:
    return tuple(importlib.metadata.version(name) for name in _DECIDING)


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as problem:
        raise ResultError(f"{path}: {problem.strerror}") from None
