"""The source code of a plug-in: every file that it is made of, and one digest of them, so that a change is noticed."""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvsim.policies.attribution import is_own
from kvsim.scenario.digest import FILE_BYTES, content_digest

_INSTALLED = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
"""Folders whose packages have nothing to do with each other."""


def code_digest(kind: type[Any]) -> str | None:
    """Return a digest of the code of a plug-in's class; None of kvsim's own, and where no source can be found.

    It covers all Python files of the package that holds the class, or else its module; and of what these import, all
    that lies in the same folder, an installation's apart. A class of a notebook is covered by its own text. Files that
    the code opens and modules that it imports by a name worked out at run time are not covered.
    """
    if is_own(kind):
        return None
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is None:
        return _digest_of_text(kind)
    files, home = own_sources(Path(file).resolve(), kind.__module__)
    parts = [part for path in files for part in (path.relative_to(home).as_posix(), path.read_bytes())]
    return content_digest(*parts, num_bytes=FILE_BYTES)


def own_sources(file: Path, module_name: str) -> tuple[list[Path], Path]:
    """Return the files that a plug-in in `file` is made of, and the folder that its package or module lies in."""
    is_package = file.name == "__init__.py"
    home = file.parents[module_name.count(".") + is_package]
    first = home / module_name.partition(".")[0]
    waiting = sorted(first.rglob("*.py")) if first.is_dir() else [file]
    sources: dict[Path, None] = {}
    names = {first.name}
    while waiting:
        path = waiting.pop()
        if path in sources:
            continue
        sources[path] = None
        if home not in _INSTALLED:
            new = set(_imports_of(path)) - names
            names |= new
            waiting += [other for name in sorted(new) for other in _files_of(home, name)]
    return sorted(sources), home


def _files_of(home: Path, name: str) -> list[Path]:
    """Return the files of a module or package of `home`; none where it lies elsewhere."""
    module = home / f"{name}.py"
    return [module] if module.is_file() else sorted((home / name).rglob("*.py"))


def _imports_of(path: Path) -> Iterator[str]:
    """Yield the first part of every name that a file imports from outside its package, inside functions too."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _digest_of_text(kind: type[Any]) -> str | None:
    try:
        return content_digest(inspect.getsource(kind), num_bytes=FILE_BYTES)
    except (OSError, TypeError):
        return None
