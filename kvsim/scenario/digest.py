"""The one digest by which contents are known: BLAKE2b in hex, of texts, bytes and arrays."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

FILE_BYTES = 16
"""Size of the digests that manifests record of files."""


def content_digest(*parts: str | bytes | NDArray[Any], num_bytes: int = 8) -> str:
    """Return the digest of `parts`, one after another: a text as UTF-8, an array as its elements in C order.

    Examples
    --------
    >>> content_digest("a", b"b") == content_digest("ab")
    True
    """
    content = hashlib.blake2b(digest_size=num_bytes)
    for part in parts:
        whole = part.encode() if isinstance(part, str) else part
        content.update(whole if isinstance(whole, bytes) else whole.tobytes())
    return content.hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file, as manifests record it.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=FILE_BYTES)).hexdigest()
