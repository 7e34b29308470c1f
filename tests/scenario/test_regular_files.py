"""Files that are read whole: what is no file, or too large, is refused before anything is read."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from kvsim.scenario.regular_files import MAX_FILE_BYTES, read_bytes, read_text, read_unpacked


def sparse(path: Path) -> None:
    """Make a file that says it has 8 GiB, of which none is on the disk."""
    path.touch()
    os.truncate(path, 2**33)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "a named pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
        (lambda path: path.mkdir(), "a folder, not a file"),
        (lambda path: sparse(path), "larger than 64 MiB, which no file of this kind is"),
    ],
)
@pytest.mark.parametrize("read", [read_bytes, read_text, read_unpacked])
def test_what_is_no_file_is_refused_by_its_kind_or_size(tmp_path: Path, make, reason, read):
    make(tmp_path / "x")
    with pytest.raises(OSError) as caught:
        read(tmp_path / "x")
    assert caught.value.strerror == reason


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"\n" * (MAX_FILE_BYTES + 1)))
    assert path.stat().st_size < 2**20
    with pytest.raises(OSError, match="larger than 64 MiB"):
        read_unpacked(path)


def test_the_largest_file_is_read_whole(tmp_path: Path):
    (tmp_path / "x").write_bytes(b"a" * 100)
    assert read_bytes(tmp_path / "x", 100) == b"a" * 100
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a" * 100))
    assert read_unpacked(tmp_path / "x.gz", 100) == b"a" * 100


def test_a_text_has_no_byte_order_mark(tmp_path: Path):
    (tmp_path / "x").write_bytes("\N{BYTE ORDER MARK}naïve".encode())
    assert read_text(tmp_path / "x") == "naïve"
