"""Every layout of request traces that the field uses, a few invented rows of each, read without saying which it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kvsim.caches.prefix import replay
from kvsim.errors import ScenarioError, TraceError
from kvsim.traces.requests.contents import SharedBeginning, blocks_of
from kvsim.traces.requests.registry import FORMATS, RequestTrace, open_requests

PROMPT = "a prompt that is long enough"
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
CASES = {
    "bailian": (
        {"chat_id": 1, "parent_chat_id": -1, "timestamp": 0.25, "input_length": 40, "output_length": 9,
         "type": "text", "turn": 1, "hash_ids": [1, 2, 3]},
        {"chat_id": 2, "parent_chat_id": 1, "timestamp": 61.5, "input_length": 70, "output_length": 9,
         "type": "text", "turn": 2, "hash_ids": [1, 2, 4, 5, 6]},
    ),
    "servegen": (
        {"request_id": 0, "type": "text", "input_length": 40, "hash_ids": [0, 1, 2], "img_ids": []},
        {"request_id": 1, "type": "text", "input_length": 44, "hash_ids": [0, 1, 3], "img_ids": []},
    ),
    "mooncake": (
        {"timestamp": 0.0, "input_length": 600, "output_length": 40, "hash_ids": [1, 2]},
        {"timestamp": 27482.5, "input_length": 600, "output_length": 40, "hash_ids": [1, 3]},
    ),
    "mooncake with text ids": (
        {"timestamp": 0, "input_length": 600, "output_length": 40, "hash_ids": ["aa", "bb"]},
        {"timestamp": 1, "input_length": 600, "output_length": 40, "hash_ids": ["aa", "cc"]},
    ),
    "mooncake of AIPerf": (
        {"session_id": "a", "timestamp": 0, "input_length": 600, "output_length": 40, "hash_ids": [1, 2]},
        {"session_id": "a", "delay": 5000, "input_length": 1100, "output_length": 40, "hash_ids": [1, 3, 4]},
    ),
    "mooncake in blocks of 64": (
        {"timestamp": 0, "input_length": 100, "output_length": 40, "hash_ids": [1, 2]},
        {"timestamp": 1, "input_length": 200, "output_length": 40, "hash_ids": [1, 3, 4, 5]},
    ),
    "full-blocks": (
        {"timestamp": 0, "input_length": 40, "output_length": 1, "hash_ids": [1, 2]},
        {"timestamp": 1000, "input_length": 70, "output_length": 1, "hash_ids": [1, 2, 3, 4]},
    ),
    "llmservingsim": (
        {"input_toks": 20, "output_toks": 2, "arrival_time_ns": 0, "input_tok_ids": list(range(1, 21)),
         "output_tok_ids": [21, 22]},
        {"input_toks": 18, "output_toks": 2, "arrival_time_ns": 5_000_000,
         "input_tok_ids": [*range(1, 17), 30, 31], "output_tok_ids": [21, 22]},
    ),
    "sessions": (
        {"timestamp": 2_000_000, "input": f"{PROMPT}, and more of it", "output": "no", "session_id": "s"},
        {"timestamp": 1_000_000, "input": PROMPT, "output": "yes", "session_id": "s"},
    ),
    "sharegpt": [
        {"id": "x_0", "conversations": [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": "an answer"},
                                        {"from": "human", "value": "more"}, {"from": "gpt", "value": "so"}]},
    ],
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.5,374,44\n2023-11-16 18:15:50.5,396,109\n",
    "burstgpt": BURSTGPT + "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,230,1317,Conversation log\n",
    "lengths": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374,44\n4.2,396,109\n",
    "lengths without arrivals": "num_prefill_tokens,num_decode_tokens,num_total_tokens\n374,44,418\n396,109,505\n",
}  # fmt: skip


def opened(case: str, folder: Path, **options) -> RequestTrace:
    rows = CASES[case]
    if isinstance(rows, list):
        text, suffix = json.dumps(rows, indent=2), "json"
    elif isinstance(rows, tuple):
        text, suffix = "\n".join(map(json.dumps, rows)), "jsonl"
    else:
        text, suffix = rows, "csv"
    path = folder / f"trace.{suffix}"
    path.write_text(text)
    return open_requests(path, **options)


def test_every_format_is_tried_here() -> None:
    assert {case.split()[0] for case in CASES} == set(FORMATS)


@pytest.mark.parametrize("case", CASES)
def test_a_format_is_known_by_its_rows_and_reads_the_same_when_named(case: str, tmp_path: Path) -> None:
    inferred = opened(case, tmp_path)
    name = case.split()[0]
    assert inferred.format.name == name
    assert inferred.reading.startswith(f"{name} (inferred), blocks of {inferred.block_tokens} tokens")
    named = opened(case, tmp_path, name=name, block_tokens=inferred.block_tokens)
    assert "inferred" not in named.reading
    shown = ("arrival_s", "delay_s", "session", "input_tokens", "output_tokens", "blocks", "text")
    for one, other in zip(inferred.requests, named.requests, strict=True):
        assert [getattr(one, field) for field in shown] == [getattr(other, field) for field in shown]


@pytest.mark.parametrize(
    ("case", "arrivals_s"),
    [
        ("bailian", [0.25, 61.5]),
        ("servegen", [None, None]),
        ("mooncake", [0.0, 27.4825]),
        ("mooncake of AIPerf", [0.0, None]),
        ("llmservingsim", [0.0, 0.005]),
        ("sessions", [0.0, 1.0]),
        ("sharegpt", [None, None]),
        ("azure", [0.0, 4.0]),
        ("burstgpt", [5.0, 45.0]),
        ("lengths", [0.0, 4.2]),
        ("lengths without arrivals", [None, None]),
    ],
)
def test_times_are_seconds_whatever_their_unit_and_may_be_absent(case: str, arrivals_s: list, tmp_path: Path) -> None:
    found = [request.arrival_s for request in opened(case, tmp_path).requests]
    assert found == [None if time_s is None else pytest.approx(time_s, rel=1e-12) for time_s in arrivals_s]


@pytest.mark.parametrize(
    ("case", "lengths"),
    [
        ("burstgpt", [(472, 18), (1087, 230)]),
        ("lengths", [(374, 44), (396, 109)]),
        ("servegen", [(40, None), (44, None)]),
        ("llmservingsim", [(20, 2), (18, 2)]),
        ("sharegpt", [(28, 9), (28 + 1 + 9 + 1 + 4, 2)]),
    ],
)
def test_lengths_are_those_of_the_rows(case: str, lengths: list, tmp_path: Path) -> None:
    assert [(request.input_tokens, request.output_tokens) for request in opened(case, tmp_path).requests] == lengths


@pytest.mark.parametrize(
    ("case", "num_blocks", "hits", "block_tokens"),
    [
        ("bailian", 8, 2, 16),
        ("servegen", 6, 2, 16),
        ("mooncake", 4, 1, 512),
        ("mooncake with text ids", 4, 1, 512),
        ("mooncake of AIPerf", 5, 1, 512),
        ("mooncake in blocks of 64", 6, 1, 64),
        ("full-blocks", 6, 2, 16),
        ("llmservingsim", 2, 1, 16),
        ("sessions", 3, 1, 16),
        ("sharegpt", 3, 1, 16),
    ],
)
def test_blocks_and_hits_are_right(case: str, num_blocks: int, hits: int, block_tokens: int, tmp_path: Path) -> None:
    trace = opened(case, tmp_path)
    blocks = blocks_of(trace, tokenizer="bytes" if trace.format.contents == "text" else None)
    assert (blocks.blocks.size, blocks.block_tokens) == (num_blocks, block_tokens)
    done = replay(blocks.blocks, blocks.starts, blocks.parents, policy="lru", budget_blocks=None)
    assert done.hits.sum() == hits


def test_sessions_are_followed(tmp_path: Path) -> None:
    assert [request.session for request in opened("bailian", tmp_path).requests] == ["1", "1"]
    first, second = opened("mooncake of AIPerf", tmp_path).requests
    assert (first.session, second.session, second.delay_s) == ("a", "a", 5.0)


def test_text_becomes_tokens_before_it_becomes_blocks(tmp_path: Path) -> None:
    blocks = blocks_of(opened("sessions", tmp_path), tokenizer="bytes")
    assert blocks.input_tokens.tolist() == [28, 44]
    with pytest.raises(TraceError, match=r"tokenizer\.json: no tokenizer"):
        blocks_of(opened("sessions", tmp_path), tokenizer=tmp_path)


def test_a_unit_of_time_may_be_stated(tmp_path: Path) -> None:
    trace = opened("mooncake", tmp_path, time_unit="s")
    assert trace.reading.endswith("times in s")
    assert [request.arrival_s for request in trace.requests] == [0.0, 27482.5]
    with pytest.raises(ScenarioError, match="'servegen' has no unit of time to choose"):
        opened("servegen", tmp_path, time_unit="s")


@pytest.mark.parametrize(
    ("case", "options", "error"),
    [
        ("sessions", {}, "'sessions' has text: tokenizer should be 'bytes' or the folder of a model"),
        ("mooncake", {"tokenizer": "bytes"}, "'mooncake' has no text: leave tokenizer out"),
        ("azure", {}, "'azure' has lengths only.*shared_tokens = 0 for nothing"),
        ("mooncake", {"shared": SharedBeginning(tokens=0)}, "'mooncake' records contents: leave shared_tokens out"),
    ],
)
def test_what_a_trace_needs_is_asked_for(case: str, options: dict, error: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=error):
        blocks_of(opened(case, tmp_path), **options)


def test_assumed_beginnings_are_shared_in_turn(tmp_path: Path) -> None:
    blocks = blocks_of(opened("burstgpt", tmp_path), shared=SharedBeginning(tokens=64, variants=1))
    assert np.intersect1d(blocks.blocks[:29], blocks.blocks[29:]).size == 4
    apart = blocks_of(opened("burstgpt", tmp_path), shared=SharedBeginning(tokens=64, variants=2))
    assert apart.num_distinct == apart.blocks.size


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"a": 1}', r"fields a are of no known format; known are bailian: chat_id, "),
        ("version,time,lbn\n1,2,3", "fields version, time, lbn are of no known format"),
        ('{"input_length": 600, "output_length": 1, "hash_ids": [1, 2, 3, 4, 5, 6, 7]}', "state block_tokens"),
        ('{"input_length": 600, "output_length": 1, "hash_ids": [1, "b"]}', "hash_ids should be a list of whole"),
        ('[{"conversations": 3}]', r"trace\[0\]: conversations should be a list of turns"),
        ('[{"conversations": [{"from": "human"}]}]', r'a turn should be {"from": text, "value": text}'),
        ("[1]", r"trace\[0\]: should be a JSON object, found int"),
        ("[1", "not valid JSON"),
        ("", "no requests in it"),
        ('{"input_toks": 3, "output_toks": 1, "input_tok_ids": [1, 2]}', "input_toks is 3, input_tok_ids has 2"),
        ('{"input_toks": 1, "output_toks": 1, "input_tok_ids": [-1]}', "input_tok_ids should be a list of whole"),
    ],
)
def test_rows_of_no_format_are_reported_with_what_would_be_right(text: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(text)
    with pytest.raises(TraceError, match=error):
        list(open_requests(tmp_path / "trace").requests)


def test_an_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="did you mean 'mooncake'"):
        opened("mooncake", tmp_path, name="moncake")
    with pytest.raises(TraceError, match="is no archive, so it has no part 'x'"):
        list(opened("mooncake", tmp_path, name="mooncake", part="x").requests)


def test_the_page_lists_every_format() -> None:
    page = (Path(__file__).parents[2] / "docs" / "request-traces.md").read_text()
    for known in FORMATS.values():
        assert f"| `{known.name}` | {known.summary} | {', '.join(f'`{field}`' for field in known.fields)} |" in page
