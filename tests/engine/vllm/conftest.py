"""A Python that speaks as vLLM's process does, and one that really has vLLM."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from kvsim.engine.vllm import find_python
from kvsim.errors import KvsimError

STAND_IN = Path(__file__).with_name("stand_in.py")


def write_stand_in(folder: Path) -> Path:
    """Write a program that runs the stand-in whatever script it is given."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return it, and let kvsim find it."""
    path = write_stand_in(tmp_path)
    monkeypatch.setenv("KVSIM_VLLM", str(path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    return path


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """Return the Python of an environment with vLLM; skip without."""
    try:
        return find_python()
    except KvsimError as reason:
        pytest.skip(f"no real engine to hold the simulation to: {reason}")
