"""`njit` for kernels: numba's, with machine code cached on disk in a folder named by every kernel's source.

numba compiles cached code again only when its own file changes, not when a function that it calls does (the stale
callee then runs on). So any change of any kernel is a new folder. It is made when there is code to write, not when this
module is imported; where nothing can be written, every process compiles for itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, InTreeCacheLocator

_NUM_FOLDERS = 3
"""Folders of cached code that stay, the newest ones: a few versions side by side, and no heap of old ones."""
_IN_USE_S = 24 * 3600
"""A folder that a process began to use so recently stays too: the process may still be writing to it."""
_ROOM = Path(__file__).parent


def njit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Compile a kernel when it is first called, or load what was cached; options as numba's."""
    if function is None:
        return lambda later: njit(later, **options)
    dispatcher = numba.njit(**options)(function)
    if code_folder() is not None:
        make_cache = _KernelCache if options.get("_nrt", True) else _UncountedCache
        dispatcher._cache = make_cache(function)
    return dispatcher


@cache
def code_folder() -> Path | None:
    """Return where code of these sources is cached, whether it exists or not; None where the user has no home."""
    try:
        return _home() / _digest()
    except RuntimeError:
        return None


def _home() -> Path:
    numba_folder, caches = os.environ.get("NUMBA_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    if numba_folder:
        return Path(numba_folder) / "kvsim-kernels"
    return (Path(caches) if caches else Path.home() / ".cache") / "kvsim" / "kernels"


def _digest(folder: Path = _ROOM) -> str:
    sources = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    for path in sorted(folder.rglob("*.py")):
        sources.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return sources.hexdigest()


@cache
def _mark_used(folder: Path) -> None:
    """Note that this process uses a folder, so that others do not take it for an old one."""
    with suppress(OSError):
        os.utime(folder)


@cache
def _remove_old(home: Path) -> None:
    used_s = {path: path.stat().st_mtime for path in home.iterdir()}
    newest_first = sorted(used_s, key=used_s.__getitem__, reverse=True)
    for path in newest_first[_NUM_FOLDERS:]:
        if time.time() - used_s[path] > _IN_USE_S:
            shutil.rmtree(path, ignore_errors=True)


class _Locator(InTreeCacheLocator):
    """Places code in the folder of the sources."""

    def __init__(self, function, file):
        super().__init__(function, file)
        folder = code_folder()
        assert folder is not None, "else kernels have no cache"
        self._folder = folder
        parent = Path(file).parent
        is_own = parent.is_relative_to(_ROOM)  # a test's kernel is not
        self._cache_path = str(
            self._folder / (parent.relative_to(_ROOM) if is_own else self.get_suitable_cache_subpath(file))
        )

    @classmethod
    def from_function(cls, function, file):
        """Return the locator of a kernel, without making a folder as numba's own do."""
        return cls(function, file)

    def ensure_cache_path(self):
        """Make the folder for code about to be written."""
        Path(self._cache_path).mkdir(parents=True, exist_ok=True)
        _remove_old(self._folder.parent)


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator]


class _KernelCache(FunctionCache):
    """The code of one kernel on disk; a disk that cannot be read or written costs no more than compiling again."""

    _impl_class = _CacheImpl

    def load_overload(self, sig, target_context):
        """Return cached code, None where there is none."""
        _mark_used(code_folder())
        with suppress(OSError):
            return self._load(sig, target_context)
        return None

    def _load(self, sig, target_context):
        return super().load_overload(sig, target_context)

    def save_overload(self, sig, data):
        """Write code that was compiled."""
        with suppress(OSError):
            super().save_overload(sig, data)


class _UncountedCache(_KernelCache):
    """Code without reference counting: it runs without the compiler's registries, which numba would load in 0.2 s."""

    def _load(self, sig, target_context):
        return self._load_overload(sig, target_context)
