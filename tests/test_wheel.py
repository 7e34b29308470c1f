"""The built wheel in an environment of its own works from any folder: code, data and all that ships are in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("kvsim", "scenarios", "profiles", "captures")
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


def run(*words: str | Path, folder: Path) -> str:
    """Return what a command prints, run in `folder` and with nothing of this process in its path of modules."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run([str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, with the setuptools that is installed and no network."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, sources)
    run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, sources, folder=folder)
    (built,) = folder.glob("kvsim-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a fresh environment with the wheel in it; what it depends on is this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel, folder=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def test_the_wheel_has_every_file_of_the_package_and_all_that_ships(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = (path for path in (ROOT / "kvsim").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {path.relative_to(ROOT).as_posix() for path in files} <= packed
    for folder in FOLDERS[1:]:
        names = {path.name for path in (ROOT / folder).iterdir() if path.is_file()}
        assert {f"kvsim/_shipped/{folder}/{name}" for name in names} <= packed


def test_a_shipped_scenario_runs_from_another_folder(python: Path, tmp_path: Path) -> None:
    place = run(python, "-c", "import kvsim; print(kvsim.__file__)", folder=tmp_path).strip()
    assert Path(place).is_relative_to(python.parents[1])
    command = python.with_name("kvsim")
    assert "smollm2_cpu" in run(command, "scenarios", folder=tmp_path)
    run(command, "check", "smollm2_cpu", folder=tmp_path)  # opens the capture and the profile that ship
    printed = run(command, "run", "kv_on_off", "--no-figures", "--json", "-o", "out", folder=tmp_path)
    (rows,) = (tmp_path / "out").glob("kv_on_off/*/rows.parquet")
    assert json.loads(printed) == json.loads(rows.with_name("summary.json").read_text())
