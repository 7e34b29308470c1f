"""Texts to read: two that every Python has, or a file."""

from __future__ import annotations

import importlib
from pathlib import Path

from kvsim.errors import KvsimError
from kvsim.scenario.regular_files import read_text as read_file


def read_text(name: str) -> str:
    """Return a text that every Python has (``python-docs``, ``python-code``), or that of a UTF-8 file.

    Raises
    ------
    KvsimError
        If the file cannot be read.
    """
    if name == "python-docs":
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
        return "\n\n".join(topics[key] for key in sorted(topics))
    if name == "python-code":
        folder = Path(importlib.import_module("argparse").__file__ or "").parent
        return "\n\n".join((folder / file).read_text(encoding="utf-8") for file in _CODE_FILES)
    try:
        return read_file(Path(name))
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise KvsimError(f"{name}: cannot read the text ({reason}); or use python-docs, python-code") from None


_CODE_FILES = ("argparse.py", "dataclasses.py", "datetime.py", "inspect.py", "typing.py")
