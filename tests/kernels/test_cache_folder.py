"""Cached code lies in a folder named by every kernel's source, which is made when there is code to write."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import kvsim.kernels
from kvsim.kernels.cached import _digest

ROOM = Path(kvsim.kernels.__file__).parent
IMPORTS = "from kvsim.kernels import arrays, bits, interpolation, prefix\n"
"""Kernels are defined, none is called."""
CALLS = "import numpy\nfrom kvsim.kernels.interpolation import row_at\nrow_at(numpy.arange(4.0), 0, 4, 1.5)\n"
REPORTS = "print(dict(row_at._cache_hits), dict(row_at._cache_misses))\n"


def run(code: str, home: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(home), "PYTHONPATH": str(ROOM.parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def folders(home: Path) -> set[str]:
    return {path.name for path in (home / "kvsim" / "kernels").iterdir()}


def test_importing_kernels_writes_nothing(tmp_path: Path) -> None:
    run(IMPORTS, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_code_is_cached_in_the_folder_of_the_sources_and_loaded_from_there(tmp_path: Path) -> None:
    first, second = (run(CALLS + REPORTS, tmp_path) for _ in range(2))
    assert folders(tmp_path) == {_digest()}
    assert first.startswith("{} {") and second.endswith("} {}")


def test_any_change_of_any_kernel_is_another_folder(tmp_path: Path) -> None:
    """A kernel in a subfolder too; numba itself would run the old code of a changed callee."""
    sources = tmp_path / "kernels"
    shutil.copytree(ROOM, sources, ignore=shutil.ignore_patterns("__pycache__"))
    digests = {_digest(sources)}
    assert digests == {_digest()}
    files = sorted(sources.rglob("*.py"))
    assert any(len(file.relative_to(sources).parts) > 1 for file in files)
    for file in files:
        file.write_text(file.read_text() + "\n")
        digests.add(_digest(sources))
    files[0].rename(files[0].with_name("renamed.py"))
    digests.add(_digest(sources))
    assert len(digests) == len(files) + 2


def test_old_folders_go_and_the_newest_stay(tmp_path: Path) -> None:
    home = tmp_path / "kvsim" / "kernels"
    for number in range(5):
        (home / f"old{number}").mkdir(parents=True)
        os.utime(home / f"old{number}", (number, number))
    run(CALLS, tmp_path)
    assert folders(tmp_path) == {_digest(), "old3", "old4"}


def test_a_folder_that_another_process_may_be_writing_to_stays(tmp_path: Path) -> None:
    others = {f"other{number}" for number in range(5)}
    for name in others:
        (tmp_path / "kvsim" / "kernels" / name).mkdir(parents=True)
    run(CALLS, tmp_path)
    assert folders(tmp_path) == {_digest(), *others}


def test_a_home_that_cannot_be_written_costs_no_more_than_compiling_again(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert run(CALLS + REPORTS, blocked).startswith("{} {")
