"""Where, when, with what and from what a run or a profile is made: the manifest, and digests of what was read."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from kvsim import __version__
from kvsim.scenario.digest import FILE_BYTES, content_digest, file_digest
from kvsim.scenario.file import Role
from kvsim.scenario.regular_files import check_regular

SCHEMA_VERSION = 1
"""Of manifests and of the folders that results are kept in."""

WEIGHTS = (".safetensors", ".gguf", ".bin")
"""Files of weights, too large to be read for a digest."""
_HEAD_BYTES = 2**20
_SAFETENSORS_LENGTH_BYTES = 8

_PACKAGES = ("numpy", "scipy", "numba", "simpy", "pandas", "pyarrow", "torch", "transformers")


def make_manifest(*, scenario_text: str, scenario_hash: str, seed: int, command: str) -> dict[str, Any]:
    """Return where, when, with what and from what a run is made: all that must not be in the summary."""
    now = datetime.now(UTC)
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": f"{now:%Y%m%dT%H%M%S}Z-{scenario_hash}",
        "date": now.isoformat(timespec="seconds"),
        "command": command,
        "scenario": scenario_text,
        "scenario_hash": scenario_hash,
        "seed": seed,
        "commit": _commit(Path(__file__).resolve()),
        "versions": {"kvsim": __version__, "python": platform.python_version(), **_versions()},
        "machine": {
            "host": platform.node(),
            "os": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "num_cpus": os.cpu_count(),
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Something that a run read, by the name that its scenario gives it, and a digest of its content."""

    role: Role | Literal["policy"]
    name: str
    digest: str | None
    """None where there is nothing on this machine to be digested."""
    covers: str
    """What of it the digest covers."""


def file_input(role: Role, name: str, path: Path) -> Input:
    """Return a file with the digest of its content."""
    return Input(role=role, name=name, digest=file_digest(path), covers="the whole file")


def model_input(name: str, path: Path) -> Input:
    """Return a model's folder or file with a digest of its configuration and of what distinguishes its weights.

    Weights are not read whole: of a ``.safetensors`` file the digest covers the size and the header, which has the
    name, type and place of every tensor; of other files of weights the size and the first MiB. Weights that were
    changed in place, with all sizes kept, are not noticed.
    """
    if not path.exists():
        return Input(role="model", name=name, digest=None, covers="nothing: it is not a path on this machine")
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    known = [file for file in files if file.suffix in (*WEIGHTS, ".json") or file == path]
    parts: list[str | bytes] = []
    for file in known:
        content = _weights_head(file) if file.suffix in WEIGHTS else file.read_bytes()
        parts += ["" if file == path else file.relative_to(path).as_posix(), str(file.stat().st_size), content]
    covers = "configuration and tokenizer whole; of weights their sizes and headers"
    return Input(role="model", name=name, digest=content_digest(*parts, num_bytes=FILE_BYTES), covers=covers)


def recorded_inputs(manifest: dict[str, Any]) -> list[Input] | None:
    """Return what a manifest says its run read; None where it is of a time before that was recorded."""
    listed = manifest.get("inputs")
    if not isinstance(listed, list):
        return None
    try:
        return [Input(**one) for one in listed]
    except TypeError:
        return None


def described(inputs: Iterable[Input]) -> list[dict[str, Any]]:
    """Return inputs as a manifest holds them."""
    return [asdict(one) for one in inputs]


def _weights_head(path: Path) -> bytes:
    check_regular(path)
    with path.open("rb") as file:
        if path.suffix != ".safetensors":
            return file.read(_HEAD_BYTES)
        length = file.read(_SAFETENSORS_LENGTH_BYTES)
        return length + file.read(min(int.from_bytes(length, "little"), 64 * _HEAD_BYTES))


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _commit(source: Path) -> str | None:
    """Return the commit of `source`, ``-dirty`` behind it where files differ; None where git does not track it."""
    tracked = _git(source.parent, "ls-files", "--error-unmatch", source.name)
    return _git(source.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if tracked else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
