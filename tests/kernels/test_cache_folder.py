"""Kept code lies in a folder named by every kernel's source."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kvsim.kernels


def folder_of(home: Path) -> str:
    code = "import kvsim.kernels, numba; print(numba.config.CACHE_DIR)"
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(home), "PYTHONPATH": str(Path(kvsim.kernels.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_folder_is_named_by_the_sources(tmp_path: Path) -> None:
    assert Path(folder_of(tmp_path)) == tmp_path / "kvsim" / "kernels" / kvsim.kernels._digest()


def test_any_change_of_any_kernel_is_another_folder(tmp_path: Path) -> None:
    """A kernel in a subfolder too; numba itself would run the old code of a changed callee."""
    sources = tmp_path / "kernels"
    shutil.copytree(Path(kvsim.kernels.__file__).parent, sources, ignore=shutil.ignore_patterns("__pycache__"))
    digests = {kvsim.kernels._digest(sources)}
    assert digests == {kvsim.kernels._digest()}
    files = sorted(sources.rglob("*.py"))
    assert any(len(file.relative_to(sources).parts) > 1 for file in files)
    for file in files:
        file.write_text(file.read_text() + "\n")
        digests.add(kvsim.kernels._digest(sources))
    files[0].rename(files[0].with_name("renamed.py"))
    digests.add(kvsim.kernels._digest(sources))
    assert len(digests) == len(files) + 2


def test_old_folders_go_and_the_newest_stay(tmp_path: Path) -> None:
    home = tmp_path / "kvsim" / "kernels"
    for number in range(5):
        (home / f"old{number}").mkdir(parents=True)
        os.utime(home / f"old{number}", (number, number))
    folder = folder_of(tmp_path)
    assert sorted(path.name for path in home.iterdir()) == sorted([Path(folder).name, "old3", "old4"])


def test_a_folder_that_another_process_may_be_writing_to_stays(tmp_path: Path) -> None:
    home = tmp_path / "kvsim" / "kernels"
    for number in range(5):
        (home / f"other{number}").mkdir(parents=True)
    folder = folder_of(tmp_path)
    assert {path.name for path in home.iterdir()} == {Path(folder).name, *(f"other{number}" for number in range(5))}


def test_a_home_that_cannot_be_written_costs_no_more_than_compiling_again(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    folder = folder_of(blocked)
    assert "kvsim-kernels-" in folder
    assert not Path(folder).exists()
