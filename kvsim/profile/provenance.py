"""Where, when, with what and from what a run or a profile is made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvsim import __version__

SCHEMA_VERSION = 1
"""Of manifests and of the folders that results are kept in."""

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


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


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
