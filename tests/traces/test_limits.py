"""Traces that would keep a reader busy for minutes, or fill its memory, are refused by a stated limit."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from kvsim.errors import TraceError
from kvsim.traces.lines import lines_of
from kvsim.traces.requests import base
from kvsim.traces.requests.contents import SharedBeginning, blocks_of
from kvsim.traces.requests.registry import open_requests
from kvsim.traces.rows import rows_of

HEADER = "num_prefill_tokens,num_decode_tokens\n"


def test_a_request_of_a_thousand_million_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text(f"{HEADER}10,1\n1000000000,1\n")
    with pytest.raises(
        TraceError, match=r"long.csv:3: num_prefill_tokens should be .* to 134,217,728, found 1000000000"
    ):
        blocks_of(open_requests(tmp_path / "long.csv"), shared=SharedBeginning(tokens=16, variants=1))


def test_more_blocks_than_memory_holds_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(base, "MAX_BLOCKS", 100)
    (tmp_path / "many.csv").write_text(HEADER + "480,1\n" * 4)
    with pytest.raises(TraceError, match=r"more than 100 blocks in all: replay fewer requests, or larger blocks"):
        blocks_of(open_requests(tmp_path / "many.csv", block_tokens=16), shared=SharedBeginning(tokens=16, variants=1))


def test_half_a_megabyte_of_blank_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}\n" + b"\n" * (500 * 2**20)))
    assert path.stat().st_size < 2**20
    with pytest.raises(TraceError, match=r"bomb.jsonl.gz:1000002: more than 1,000,000 blank lines in a row"):
        list(rows_of(path))


def test_blank_lines_between_rows_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\n\n{"a": 2}\n')
    assert [row.values["a"] for row in rows_of(tmp_path / "x.jsonl")] == [1, 2]


def test_a_file_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    row = json.dumps({"num_prefill_tokens": 1, "num_decode_tokens": 1, "text": " " * 10_000})
    path.write_bytes(gzip.compress(f"{row}\n".encode() * 10_000))
    with pytest.raises(TraceError, match=r"unpacks to more than 400 times its size, which no trace does"):
        list(rows_of(path))


def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("x.jsonl")
    member.size = 200 * 2**20
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        archive.addfile(member, io.BytesIO(b"\n" * member.size))
    (tmp_path / "bomb.tar.xz").write_bytes(lzma.compress(plain.getvalue(), preset=0))
    with pytest.raises(TraceError, match=r"unpacks to more than 400 times its size, which no trace does"):
        list(rows_of(tmp_path / "bomb.tar.xz"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "a named pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
        (lambda path: path.mkdir(), "a folder, not a file"),
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.jsonl.gz", "x.tar"])
def test_what_is_no_file_is_refused_by_its_kind(tmp_path: Path, make, reason: str, name: str) -> None:
    make(tmp_path / name)
    with pytest.raises(TraceError, match=reason):
        list(rows_of(tmp_path / name))


def test_the_traces_that_ship_are_far_from_the_limits() -> None:
    for path in (Path(__file__).parents[2] / "captures").glob("*.jsonl.gz"):
        unpacked = sum(len(line) + 1 for _, line in lines_of(path))
        assert unpacked < 100 * path.stat().st_size
