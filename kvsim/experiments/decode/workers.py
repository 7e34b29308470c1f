"""Worker processes that end with the process that started them, however that ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LOOK_EVERY_S = 1.0

_watched = threading.Event()
"""Set once in a worker whose parent is watched."""


def in_worker(parent: int, work: Callable[..., T], *arguments: object) -> T:
    """Return ``work(*arguments)`` in a worker that process `parent` started, which ends when `parent` is gone.

    A parent that is killed closes nothing: its workers would wait for work for ever. Where `parent` is this process
    itself, as where joblib sees no use for another, there is nothing to watch.
    """
    if os.getpid() != parent and not _watched.is_set():
        _watched.set()
        threading.Thread(target=_end_with, args=(parent,), name="kvsim-end-with-parent", daemon=True).start()
    return work(*arguments)


def _end_with(parent: int) -> None:
    never = threading.Event()
    while os.getppid() == parent:
        never.wait(_LOOK_EVERY_S)
    os._exit(1)  # not sys.exit: nobody is left to read what is in the pipes
