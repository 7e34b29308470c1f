"""One digest of contents: BLAKE2b of the bytes, however they are handed over."""

import hashlib
from pathlib import Path

import numpy as np

from kvsim.scenario.digest import content_digest, file_digest


def blake2b(content: bytes, size: int) -> str:
    return hashlib.blake2b(content, digest_size=size).hexdigest()


def test_parts_are_digested_one_after_another() -> None:
    numbers = np.arange(6, dtype=np.int64).reshape(2, 3)
    assert content_digest("é", b"x", numbers) == blake2b("é".encode() + b"x" + numbers.tobytes(), 8)
    assert content_digest("a", num_bytes=3) == blake2b(b"a", 3)


def test_an_array_is_its_elements_in_order_whatever_its_memory_looks_like() -> None:
    numbers = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (numbers.T, numbers[:, ::2], numbers[:0], numbers > 3):
        assert content_digest(view) == blake2b(np.ascontiguousarray(view).tobytes(), 8)


def test_a_file_has_the_digest_that_manifests_record(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"abc")
    assert file_digest(path) == blake2b(b"abc", 16)
