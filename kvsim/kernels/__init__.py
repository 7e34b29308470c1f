"""Compiled kernels: numba functions over plain arrays, kept on disk under a hash of every kernel's source.

numba recompiles a kept function only when its own file changes, not when one that it calls does (a stale callee then
runs on). So the folder of kept code is named by all sources of this room: any change is a new folder. A kernel takes
arrays and numbers and knows no class of kvsim; tests hold what it computes to a plain twin.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import numba

_KEPT_FOLDERS = 3
"""Folders of kept code that stay, the newest ones: a few versions side by side, and no heap of old ones."""
_IN_USE_S = 24 * 3600
"""A folder that a process began to use so recently stays too: the process may still be writing to it."""


def _digest(folder: Path = Path(__file__).parent) -> str:
    sources = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*.py")):
        sources.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return sources.hexdigest()


def _home() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "kvsim" / "kernels"


def _make_folder() -> Path:
    """Return a folder for kept code that can be written: among the user's caches, or one that goes with the process."""
    try:
        home = _home()
        folder = home / _digest()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        os.utime(folder)
        used_s = {path: path.stat().st_mtime for path in home.iterdir()}
        newest_first = sorted(used_s, key=used_s.__getitem__, reverse=True)
        old = [path for path in newest_first[_KEPT_FOLDERS:] if time.time() - used_s[path] > _IN_USE_S]
    except (OSError, RuntimeError):
        own = Path(tempfile.mkdtemp(prefix="kvsim-kernels-"))
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        return own
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return folder


if not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(_make_folder())  # type: ignore[attr-defined]
