"""Files written whole or not at all: under a temporary name of their own, renamed when they are complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SUFFIX = ".partial"
"""How a temporary name ends; it begins with a dot."""


def temporary_name(path: Path) -> Path:
    """Return a name in the folder of `path` that no other writer has, of this process or another."""
    return path.with_name(f".{path.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}{SUFFIX}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` when the block ends well, and is removed when it does not.

    Of two writers of one `path` each writes a file of its own; the last one to end stays, whole.
    """
    partial = temporary_name(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all; its folder is made where there is none.

    Raises
    ------
    OSError
        If it cannot be written (a full disk); nothing of it is then left, and what `path` held stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content)
