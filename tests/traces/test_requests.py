"""Request traces: what the public formats say, what lies in them is found, and what is known of the real ones."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kvsim.caches.prefix import hash_blocks, replay
from kvsim.errors import TraceError
from kvsim.traces.requests.base import FIRST, Request, gather
from kvsim.traces.requests.contents import blocks_of
from kvsim.traces.requests.registry import open_requests

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
GOOD = {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [0, 1]}


@pytest.fixture(scope="session")
def public_traces() -> Path:
    """Return the folder of the public traces, or skip."""
    folder = os.environ.get("KVSIM_TRACES")
    if not folder:
        pytest.skip("KVSIM_TRACES is not set to the folder of the public request traces")
    return Path(folder)


def read(path: Path, name: str | None = "mooncake", **options) -> Iterator[Request]:
    return open_requests(path, name, **options).requests


def written(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (GOOD | {"hash_ids": [0]}, "1000 is 2 blocks of 512 tokens, hash_ids has 1"),
        (GOOD | {"input_length": 1025}, "1025 is 3 blocks of 512 tokens, hash_ids has 2"),
        (GOOD | {"input_length": -1}, "input_length should be a whole number from 1 to 134,217,728, found -1"),
        (GOOD | {"input_length": True}, "found True"),
        (GOOD | {"output_length": 2.5}, "output_length should be a whole number from 0 to 134,217,728, found 2.5"),
        (GOOD | {"hash_ids": [0, -1]}, "hash_ids should be a list of whole numbers from 0 on"),
        (GOOD | {"hash_ids": [0, True]}, "hash_ids should be a list of whole numbers"),
        (GOOD | {"hash_ids": [0, 2**63]}, "hash_ids should be a list of whole numbers"),
        (GOOD | {"hash_ids": "01"}, "hash_ids should be a list of whole numbers"),
        ({"timestamp": 0}, "input_length should be a whole number from 1 to 134,217,728, found nothing"),
        ([1], "should be a JSON object, found list"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_row_that_lies_is_told_with_file_and_line(tmp_path: Path, row: object, problem: str) -> None:
    path = written(tmp_path / "lies.jsonl", GOOD, "", row)
    with pytest.raises(TraceError) as told:
        list(read(path))
    assert str(told.value).startswith(f"{path}:3: ")
    assert problem in str(told.value)


def test_a_block_with_two_parents_is_told_with_both_lines(tmp_path: Path) -> None:
    path = written(tmp_path / "two.jsonl", GOOD, GOOD | {"hash_ids": [7, 1]})
    with pytest.raises(TraceError, match=r"two\.jsonl:2: block 1 follows block 7 here and block 0 in .*two\.jsonl:1"):
        blocks_of(open_requests(path, "mooncake"))


def test_a_block_twice_in_one_prompt_is_a_lie(tmp_path: Path) -> None:
    path = written(tmp_path / "twice.jsonl", GOOD | {"hash_ids": [5, 5]})
    with pytest.raises(TraceError, match="block 5 follows block 5 here and nothing in"):
        blocks_of(open_requests(path, "mooncake"))


def test_a_truncated_archive_is_told_with_the_line_where_it_ends(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(json.dumps(GOOD | {"timestamp": n}) for n in range(5000)).encode())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceError, match=r"cut\.jsonl\.gz:\d+: the compressed file ends in the middle"):
        list(read(path))
    path.write_bytes(b"not gzip at all")
    with pytest.raises(TraceError, match="Not a gzipped file"):
        list(read(path))
    with pytest.raises(TraceError, match="No such file"):
        list(read(tmp_path / "none.jsonl"))


def test_an_empty_trace_and_text_that_is_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_bytes(b"")
    with pytest.raises(TraceError, match="no requests in it"):
        blocks_of(open_requests(path, "mooncake"))
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(TraceError, match=r"odd\.jsonl:1: not UTF-8"):
        list(read(path))


def test_readers_are_lazy(tmp_path: Path) -> None:
    path = written(tmp_path / "lazy.jsonl", GOOD, "{broken")
    requests = read(path)
    assert next(requests).blocks == (0, 1)
    with pytest.raises(TraceError):
        next(requests)


def test_blocks_are_numbered_in_order_of_appearance_with_their_parents(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", GOOD | {"hash_ids": [40, 10]}, GOOD | {"hash_ids": [40, 30]})
    found = blocks_of(open_requests(path, "mooncake"))
    assert found.blocks.tolist() == [0, 1, 0, 2]
    assert found.parents.tolist() == [FIRST, 0, 0]
    assert found.counts.tolist() == [2, 2]
    assert found.num_distinct == 3


def test_azure_rows_have_times_and_no_contents(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", HEADER, "2023-11-16 18:15:46.6805900,374,44", "2023-11-16 18:15:47.6805900,9,1")
    requests = list(read(path, "azure"))
    assert [request.arrival_s for request in requests] == [0.0, 1.0]
    assert [request.input_tokens for request in requests] == [374, 9]
    with pytest.raises(TraceError, match=r"a\.csv:2: the request has no block ids"):
        gather(requests, block_tokens=16, source=path)


@pytest.mark.parametrize(
    ("name", "lines", "error"),
    [
        ("azure", ["a,b", "1,2"], ":2: no field TIMESTAMP, ContextTokens, GeneratedTokens; rows of format azure have"),
        ("azure", [HEADER, "soon,1,1"], ":2: TIMESTAMP should be a date and time as in 2023-11-16 18:15:46"),
        (
            "azure",
            [HEADER, "2023-11-16 18:15:46,-3,1"],
            ":2: ContextTokens should be a whole number from 1 to 134,217,728, found -3",
        ),
        ("azure", [HEADER, "2023-11-16 18:15:46,3"], ":2: 2 values for 3"),
        ("azure", ["a,a", "1,2"], ":1: the first line should name the columns, each once"),
        (
            "lengths",
            ["num_prefill_tokens,num_decode_tokens,num_total_tokens", "3,4,8"],
            ":2: num_total_tokens is 8; its parts 3 and 4 sum to 7",
        ),
        ("burstgpt", ["Timestamp,Request tokens,Response tokens", "-1,3,4"], ":2: Timestamp should be a number from 0"),
        ("burstgpt", ["Timestamp,Request tokens,Response tokens", "nan,3,4"], ":2: Timestamp should be a number from"),
    ],
)
def test_a_damaged_line_of_lengths_is_reported(tmp_path: Path, name: str, lines: list[str], error: str) -> None:
    path = written(tmp_path / "a.csv", *lines)
    with pytest.raises(TraceError) as raised:
        list(read(path, name))
    assert f"{path}{error}" in str(raised.value)


def archive(path: Path, **sessions: list[object]) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        for name, rows in sessions.items():
            content = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()
            member = tarfile.TarInfo(f"part/{name}.jsonl")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_sessions_are_read_from_an_archive_by_arrival_with_their_prompts(tmp_path: Path) -> None:
    row = {"timestamp": 1_760_000_001_000_000, "input": "hé", "output": "ok", "session_id": "s"}
    earlier = row | {"timestamp": 1_760_000_000_000_000, "session_id": "t"}
    path = archive(tmp_path / "s.tar.xz", one=[row], two=[], three=[earlier])
    first, second = read(path, "sessions")
    assert (first.session, first.arrival_s, second.session, second.arrival_s) == ("t", 0.0, "s", 1.0)
    assert (first.text, first.input_tokens, first.output_text) == ("hé", 3, "ok")
    assert [request.session for request in read(path, None)] == ["t", "s"]
    with pytest.raises(TraceError, match="no requests in it"):
        blocks_of(open_requests(path, "sessions", part="other"), tokenizer="bytes")
    damaged = archive(tmp_path / "damaged.tar.xz", one=[row], three=["{"])
    with pytest.raises(TraceError, match=r"part/three\.jsonl:1: not valid JSON"):
        list(read(damaged, "sessions"))
    whole = archive(tmp_path / "cut.tar.xz", one=[row] * 500)
    whole.write_bytes(whole.read_bytes()[:-60])
    with pytest.raises(TraceError, match=r"cut\.tar\.xz.* not a whole archive"):
        list(read(whole, "sessions"))


@pytest.mark.parametrize(
    ("name", "block", "token", "request_mean"),
    [
        ("conversation", 0.366, 0.374, 0.384),
        ("synthetic", 0.640, 0.651, None),
    ],
)
def test_an_unlimited_cache_hits_what_is_known_of_the_mooncake_traces(
    public_traces: Path, name: str, block: float, token: float, request_mean: float | None
) -> None:
    path = public_traces / "mooncake" / f"{name}_trace.jsonl.gz"
    found = blocks_of(open_requests(path))
    hits = replay(found.blocks, found.starts, found.parents, policy="lru", budget_blocks=None).hits
    assert round(hits.sum() / found.blocks.size, 3) == block
    assert round(np.minimum(hits * 512, found.input_tokens).sum() / found.input_tokens.sum(), 3) == token
    if request_mean is not None:
        assert round(float(np.mean(hits / found.counts)), 3) == request_mean


@pytest.mark.parametrize(
    ("policy", "admission", "fractions"),
    [
        ("lru", "all", (0.052, 0.196, 0.353)),
        ("arc", "all", (0.065, 0.210, 0.335)),
        ("belady", "all", (0.246, 0.366, 0.366)),
        ("lru", "second-touch", (0.086, 0.202, 0.212)),
    ],
)
def test_budgets_of_the_conversation_trace_give_the_known_hit_rates(
    public_traces: Path, policy: str, admission: str, fractions: tuple[float, ...]
) -> None:
    """Two units of the last digit: the figures were first found block by block, and rounded."""
    path = public_traces / "mooncake" / "conversation_trace.jsonl.gz"
    found = blocks_of(open_requests(path, "mooncake"))
    for budget_frac, known in zip((0.01, 0.05, 0.25), fractions, strict=True):
        budget = round(budget_frac * found.num_distinct)
        args = found.blocks, found.starts, found.parents
        hits = replay(*args, policy=policy, budget_blocks=budget, admission=admission).hits
        assert hits.sum() / found.blocks.size == pytest.approx(known, abs=0.002)


def test_real_azure_and_length_traces_are_read_whole(public_traces: Path) -> None:
    azure = public_traces / "azure-2023"
    assert sum(1 for _ in read(azure / "AzureLLMInferenceTrace_code.csv.gz", None)) == 8_819
    assert sum(1 for _ in read(azure / "AzureLLMInferenceTrace_conv.csv.gz", None)) == 19_366
    lengths = public_traces / "vidur-arxiv" / "arxiv_summarization_stats.csv.gz"
    assert sum(1 for _ in read(lengths, None)) == 28_257


def test_agent_sessions_reuse_most_of_their_prompts(public_traces: Path) -> None:
    requests = list(read(public_traces / "lmcache-agent" / "traces.tar.xz", None, part="miniswe"))
    assert len(requests) == 402
    total = hits = 0
    seen: set[int] = set()
    for request in requests:
        names = hash_blocks(np.frombuffer(request.text.encode(), dtype=np.uint8), 64)
        total += len(names)
        hits += sum(name in seen for name in names)
        seen.update(names)
    assert hits / total > 0.8
