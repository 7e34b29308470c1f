"""Reads files that fit into memory, and refuses at once what is none: a pipe, a device, gigabytes."""

from __future__ import annotations

import errno
import gzip
import io
import stat
from pathlib import Path

MAX_FILE_BYTES = 64 * 2**20
"""No scenario, profile or text that kvsim reads whole is larger; a larger file is refused before it is read."""

GZIP_START = b"\x1f\x8b"

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def check_regular(path: Path, max_bytes: int | None = None) -> None:
    """Refuse what is not a file that can be read from begin to end, or a larger one than `max_bytes`.

    Raises
    ------
    OSError
        Whose `strerror` says what it is instead, in words that go behind the name.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"{_KINDS.get(stat.S_IFMT(status.st_mode), 'something else')}, not a file")
    if max_bytes is not None and status.st_size > max_bytes:
        raise _too_large(max_bytes)


def read_bytes(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return what a file holds.

    Raises
    ------
    OSError
        If it cannot be read, is no file, or holds more than `max_bytes`.
    """
    check_regular(path, max_bytes)
    with path.open("rb") as file:
        return _at_most(file, max_bytes)


def read_unpacked(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Return what a file holds, unpacked where it is compressed with gzip.

    Raises
    ------
    OSError
        As `read_bytes` does; also where it unpacks to more than `max_bytes`.
    EOFError, zlib.error
        If it is compressed and damaged.
    """
    content = read_bytes(path, max_bytes)
    if not content.startswith(GZIP_START):
        return content
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
        return _at_most(packed, max_bytes)


def read_text(path: Path, max_bytes: int = MAX_FILE_BYTES) -> str:
    """Return the UTF-8 text of a file, without a byte-order mark.

    Raises
    ------
    OSError
        As `read_bytes` does.
    UnicodeDecodeError
        If it is no UTF-8.
    """
    return read_bytes(path, max_bytes).decode("utf-8-sig")


def _at_most(file: io.BufferedIOBase | gzip.GzipFile, max_bytes: int) -> bytes:
    content = file.read(max_bytes + 1)  # a file may say that it is smaller, as those of /proc do
    if len(content) > max_bytes:
        raise _too_large(max_bytes)
    return content


def _too_large(max_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {max_bytes // 2**20} MiB, which no file of this kind is")
