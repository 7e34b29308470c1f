"""Modules under the names that they had before 0.2: `kvsim.hardware` and others, found here through ``kvsim.__path__``.

Each forwards to where its contents are now and warns. They go with the next release.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any


def forward(old: str, *new: str) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module that was called `old` and whose contents are in the modules `new`."""

    def get(name: str) -> Any:
        for place in new:
            module = importlib.import_module(place)
            if not name.startswith("__") and hasattr(module, name):
                message = f"{old}.{name} is now {place}.{name}; the old name goes with the next release"
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                setattr(sys.modules[old], name, getattr(module, name))  # warns once
                return getattr(module, name)
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return get
