"""Workload files: what may be written in them, and the one line that says what may not."""

import gzip
import json

import numpy as np
import pytest

from kvsim.errors import TraceError
from kvsim.experiments.serving.schedules.prepare import prepare
from kvsim.experiments.serving.schedules.tokens import output_ids, prompt_ids, token_ids
from kvsim.experiments.serving.schedules.workload import Workload, read_workload
from tests.experiments.serving.tiny import SMALL_ENGINE

REQUEST = {"id": "a", "segments": [[1, 6]], "max_tokens": 3, "arrival_step": 0}


def workload(*requests, engine=(), **fields):
    return {"engine": SMALL_ENGINE | dict(engine), "requests": list(requests) or [REQUEST], **fields}


@pytest.mark.parametrize("is_gzip", [True, False])
def test_files_are_read_plain_and_compressed(tmp_path, is_gzip):
    data = json.dumps(workload(name="small")).encode()
    path = tmp_path / "workload.json"
    path.write_bytes(gzip.compress(data) if is_gzip else data)
    assert read_workload(path).name == "small"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (
            workload(REQUEST | {"max_tokens": 0}),
            r"requests\[0\].max_tokens: input should be greater than or equal to 1",
        ),
        (workload(REQUEST | {"max_token": 3}), r"requests\[0\].max_token: extra inputs are not permitted"),
        (workload(REQUEST, REQUEST), "two requests are called 'a'"),
        (workload(REQUEST | {"segments": [[1, 32]]}), "prompt of 32 tokens; with max_model_len = 32 it can have 31"),
        (workload(REQUEST | {"segments": []}), r"requests\[0\].segments: tuple should have at least 1 item"),
        (
            workload(REQUEST | {"segments": [{"output_of": "b", "length": 1}]}),
            "names 'b', and there is no such request",
        ),
        (workload(REQUEST | {"after": ["a", 1]}), "needs one of arrival_step and after"),
        (workload({"id": "a", "segments": [[1, 6]], "max_tokens": 3, "arrival_s": 1.5}), "recording adds it"),
        (workload(engine={"block_size": 8, "num_gpu_blocks_override": 4}), "leaves 3 blocks, .* give 5 or more"),
        (workload(engine={"enable_chunked_prefill": False}), "must be at least max_model_len = 32"),
        (
            workload(engine={"scheduling_policy": "lifo"}),
            "engine.scheduling_policy: input should be 'fcfs' or 'priority'",
        ),
        (workload(engine={"watermark": 1.5}), "engine.watermark: input should be less than 1"),
        (workload(outputs={"a": [1, 2, 3, 4]}), "outputs has 4 tokens of request 'a', which asks for 3: give 1 to 3"),
        (workload(outputs={}), "outputs has 0 tokens of request 'a'"),
        ({"requests": [REQUEST]}, "engine: field required"),
        ([], "input should be an object"),
    ],
)
def test_what_cannot_be_replayed_is_refused_in_one_line(tmp_path, contents, message):
    path = tmp_path / "workload.json"
    path.write_text(json.dumps(contents))
    with pytest.raises(TraceError, match=message) as refusal:
        read_workload(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("data", [b"{", b"\x1f\x8b\x08 damaged", gzip.compress(b"{}", mtime=0)[:-9], None])
def test_damaged_files_are_refused_in_one_line(tmp_path, data):
    path = tmp_path / "workload.json.gz"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(TraceError) as refusal:
        read_workload(path)
    assert "\n" not in str(refusal.value)


def test_token_ids_follow_splitmix64():
    def by_hand(seed, index):
        mask = 2**64 - 1
        mixed = (seed * 1000003 + index + 0x9E3779B97F4A7C15) & mask
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        return 10 + (mixed ^ (mixed >> 31)) % 40000

    for seed in (0, 1, 379000, 2**50):
        assert token_ids(seed, 5, start=7).tolist() == [by_hand(seed, index) for index in range(7, 12)]


def test_a_prompt_is_its_segments_in_order():
    follower = {
        "id": "b",
        "segments": [[1, 2], {"output_of": "a", "length": 2}, [5, 3, 4]],
        "max_tokens": 3,
        "after": ["a", 1],
    }
    parsed = Workload.model_validate_json(json.dumps(workload(REQUEST, follower, outputs={"a": [7, 8, 9], "b": [1]})))
    outputs = output_ids(parsed)
    prompt = prompt_ids(parsed.requests[1], outputs, {"a": 0, "b": 1})
    assert prompt.tolist() == [*token_ids(1, 2), 7, 8, *token_ids(5, 3, start=4)]
    assert parsed.requests[1].prompt_tokens == len(prompt)


def test_more_outputs_than_there_are_cannot_be_in_a_prompt():
    follower = REQUEST | {"id": "b", "segments": [{"output_of": "a", "length": 4}]}
    parsed = Workload.model_validate_json(json.dumps(workload(REQUEST, follower)))
    with pytest.raises(TraceError, match="'b': its prompt has 4 outputs of 'a', which has 3"):
        prepare(parsed)


def test_outputs_are_invented_where_there_are_none_and_stop_at_the_model_s_length():
    long = REQUEST | {"id": "b", "segments": [[1, 30]], "max_tokens": 9}
    parsed = Workload.model_validate_json(json.dumps(workload(REQUEST, long)))
    first, second = output_ids(parsed)
    assert (len(first), len(second)) == (3, 2)
    assert not np.array_equal(first[:2], second)


def test_requests_with_one_arrival_time_tie_and_others_keep_their_order():
    rows = [REQUEST | {"id": name, "arrival_time": time} for name, time in (("b", 2.5), ("a", 0.5), ("c", 2.5))]
    requests = prepare(Workload.model_validate_json(json.dumps(workload(*rows)))).requests
    assert requests.arrival.tolist() == [1, 0, 1]
    assert requests.rank.tolist() == [1, 0, 2]
