"""Traffic: which requests, which blocks they share, and when they arrive."""

import gzip
import json

import numpy as np
import pytest

from kvsim.errors import ScenarioError, TraceError
from kvsim.experiments.serving.traffic import make_traffic
from kvsim.experiments.serving.traffic.generate import draw
from kvsim.experiments.serving.traffic.turns import engine_keys
from tests.experiments.serving.tiny import scenario, sessions


def chains(traffic):
    return traffic.chains.lists()


def write_trace(path, rows):
    """Write kvsim's own format, with blocks of 4."""
    lines = [
        json.dumps({"timestamp": int(at_s * 1000), "input_length": prompt, "output_length": output, "hash_ids": ids})
        for at_s, prompt, output, ids in rows
    ]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def trace_scenario(path, **changes):
    trace = {"path": str(path), "format": "full-blocks", "block_tokens": 4}
    fields = {"generated": None, "trace": trace, "arrivals": {"process": "trace"}, "engine__block_size": 4}
    return scenario(**(fields | changes))


ROWS = [(0.0, 8, 3, [1, 2]), (1.0, 5, 2, [9]), (2.5, 13, 4, [1, 2, 3]), (4.0, 18, 1, [1, 2, 3, 4])]


def test_requests_of_a_trace_keep_lengths_times_and_what_they_share(tmp_path):
    traffic = make_traffic(trace_scenario(write_trace(tmp_path / "t.jsonl.gz", ROWS)), None)
    assert traffic.requests.prompt_tokens.tolist() == [8, 5, 13, 18]
    assert traffic.requests.max_tokens.tolist() == [3, 2, 4, 1]
    assert traffic.sessions.start_s.tolist() == [0.0, 1.0, 2.5, 4.0]
    first, other, second, third = chains(traffic)
    assert second[:2] == first[:2] and third[:3] == second[:3] and third[3] != second[3]
    assert [len(chain) for chain in chains(traffic)] == [2, 1, 4, 4]
    assert not set(other) & set(first)


def test_the_speed_of_a_trace_stretches_its_times(tmp_path):
    path = write_trace(tmp_path / "t.jsonl.gz", ROWS)
    traffic = make_traffic(trace_scenario(path, arrivals__speed=2.0), None)
    assert traffic.sessions.start_s.tolist() == [0.0, 0.5, 1.25, 2.0]


def test_requests_that_begin_with_an_earlier_one_are_turns_of_its_session(tmp_path):
    path = write_trace(tmp_path / "t.jsonl.gz", ROWS)
    changes = {"trace__sessions": "by-prefix", "arrivals__think_mean_s": 3.0, "arrivals__think_cv": 0.0}
    traffic = make_traffic(trace_scenario(path, **changes), None)
    assert traffic.sessions.first.tolist() == [0, 3, 4]
    assert traffic.requests.prompt_tokens.tolist() == [8, 13, 18, 5]
    assert traffic.sessions.start_s.tolist() == [0.0, 1.0]
    assert traffic.sessions.pause_s.tolist() == [0.0, 3.0, 3.0, 0.0]


def test_a_shuffled_trace_has_the_same_sessions_in_another_order(tmp_path):
    path = write_trace(tmp_path / "t.jsonl.gz", [(float(at), 4 + at, 1, []) for at in range(50)])
    changes = {"trace__shuffle": True, "trace__block_tokens": 64, "arrivals": {"process": "poisson", "rate_hz": 1.0}}
    lengths = make_traffic(trace_scenario(path, **changes), None).requests.prompt_tokens.tolist()
    assert lengths != sorted(lengths) and sorted(lengths) == list(range(4, 54))


def test_blocks_of_the_trace_become_blocks_of_the_engine():
    assert engine_keys([5, 6], prompt_tokens=16, block_tokens=8, id_tokens=8).tolist() == [5, 6]
    # a block of the engine that straddles two of the trace is told by what ends it
    assert engine_keys([5, 6], prompt_tokens=16, block_tokens=12, id_tokens=8).tolist() == [6 * 2]
    first = engine_keys([5, 6, 7], prompt_tokens=24, block_tokens=12, id_tokens=8).tolist()
    second = engine_keys([5, 6, 8], prompt_tokens=24, block_tokens=12, id_tokens=8).tolist()
    assert first[0] == second[0] and first[1] != second[1]


@pytest.mark.parametrize(
    ("rows", "changes", "problem"),
    [
        ([(1.0, 8, 3, [1, 2]), (0.0, 5, 2, [9])], {}, "arrives at 0 s, before the request above it"),
        ([(0.0, 1022, 3, list(range(255)))], {}, "raise engine.max_model_len, or set trace.drop_longer"),
        ([(0.0, 1022, 3, list(range(255)))], {"trace__drop_longer": True}, "no requests in it that the engine takes"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_line(tmp_path, rows, changes, problem):
    path = write_trace(tmp_path / "t.jsonl.gz", rows)
    with pytest.raises(TraceError, match=problem) as refusal:
        make_traffic(trace_scenario(path, **changes), None)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_longer_requests_can_be_left_out(tmp_path):
    path = write_trace(tmp_path / "t.jsonl.gz", [*ROWS, (9.0, 1022, 3, list(range(255)))])
    traffic = make_traffic(trace_scenario(path, trace__drop_longer=True), None)
    assert (len(traffic.requests), traffic.num_dropped) == (4, 1)


def test_a_trace_of_lengths_shares_what_the_scenario_assumes(tmp_path):
    path = tmp_path / "azure.csv"
    rows = [f"2023-11-16 18:15:{second:02}.0000000,{prompt},5" for second, prompt in enumerate((100, 40, 90))]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]))
    trace = {"path": str(path), "format": "azure", "shared_tokens": 64, "shared_by": 2}
    traffic = make_traffic(scenario(generated=None, trace=trace, arrivals={"process": "trace"}), None)
    first, second, third = chains(traffic)
    assert third[:4] == first[:4] and third[4] != first[4] and not set(second) & set(first)
    assert traffic.sessions.start_s.tolist() == [0.0, 1.0, 2.0]


def test_a_rate_stretches_the_same_arrivals():
    slow, fast = (make_traffic(scenario(arrivals__rate_hz=rate), None) for rate in (0.5, 2.0))
    assert np.allclose(slow.sessions.start_s, 4 * fast.sessions.start_s)
    assert np.array_equal(slow.requests.prompt_tokens, fast.requests.prompt_tokens)
    other = make_traffic(scenario(run__seed=1), None)
    assert not np.array_equal(slow.requests.prompt_tokens, other.requests.prompt_tokens)


@pytest.mark.parametrize(("process", "cv"), [("poisson", 1.0), ("gamma", 0.3), ("gamma", 3.0)])
def test_gaps_have_the_mean_and_the_irregularity_asked_for(process, cv):
    arrivals = {"process": process, "rate_hz": 4.0} | ({"cv": cv} if process == "gamma" else {})
    traffic = make_traffic(scenario(arrivals=arrivals, generated__num_sessions=20_000), None)
    gaps_s = np.diff(traffic.sessions.start_s)
    error = cv / np.sqrt(gaps_s.size)
    assert abs(gaps_s.mean() * 4 - 1) < 4 * error
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.1)


@pytest.mark.parametrize("distribution", ["lognormal", "gamma"])
def test_drawn_numbers_have_the_mean_and_the_spread_asked_for(distribution):
    drawn = draw(50.0, 0.8, 100_000, np.random.default_rng(2), distribution=distribution)
    assert drawn.mean() == pytest.approx(50, rel=4 * 0.8 / np.sqrt(drawn.size))
    assert drawn.std() / drawn.mean() == pytest.approx(0.8, rel=0.05)
    assert np.all(draw(50.0, 0.0, 3, np.random.default_rng(2)) == 50)


def test_generated_sessions_grow_by_answers_and_by_what_users_add():
    generated = sessions(3, prompt=100.0, output=20.0, turns=3.0, turn=10.0) | {"shared_tokens": 48, "shared_by": 2}
    traffic = make_traffic(scenario(generated=generated), None)
    assert traffic.requests.prompt_tokens.tolist() == [100, 130, 160] * 3
    texts = chains(traffic)
    assert texts[1][: len(texts[0])] == texts[0] and texts[2][: len(texts[1])] == texts[1]
    assert texts[6][:3] == texts[0][:3] and texts[6][3] != texts[0][3] and not set(texts[3]) & set(texts[0])
    assert [len(text) for text in texts[:3]] == [120 // 16, 150 // 16, 180 // 16]


def test_a_session_ends_before_the_turn_that_the_engine_does_not_take_and_long_prompts_are_cut():
    generated = sessions(1, prompt=900.0, output=20.0, turns=5.0, turn=40.0)
    traffic = make_traffic(scenario(generated=generated), None)
    assert traffic.requests.prompt_tokens.tolist() == [900, 960]
    cut = make_traffic(scenario(generated=generated | {"prompt": {"mean": 5000.0}}), None)
    assert cut.requests.prompt_tokens.tolist() == [1004] and cut.num_cut == 1
    with pytest.raises(ScenarioError, match=r"engine\.max_model_len is 1024"):
        make_traffic(scenario(generated=generated | {"output": {"mean": 2000.0}}), None)


def test_users_of_a_closed_loop_think_before_each_request():
    arrivals = {"process": "closed-loop", "users": 3, "think_mean_s": 2.0, "think_cv": 0.0}
    traffic = make_traffic(scenario(arrivals=arrivals), None)
    assert traffic.sessions.start_s is None and traffic.sessions.num_users == 3
    assert set(traffic.sessions.pause_s.tolist()) == {2.0}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"arrivals": {"process": "poisson"}}, "'poisson' needs rate_hz"),
        ({"arrivals__rate_hz": 0.0}, "arrivals.rate_hz: should be greater than 0"),
        ({"arrivals": {"process": "gamma", "rate_hz": 1.0}}, "'gamma' needs cv"),
        ({"arrivals": {"process": "closed-loop"}}, "'closed-loop' needs users"),
        ({"arrivals": {"process": "poisson", "rate_hz": 1.0, "users": 3}}, "'poisson' has no users"),
        ({"arrivals": {"process": "trace"}}, r"takes the times of a \[trace\]: there is none"),
        ({"generated": None}, r"give one of \[trace\] and \[generated\]"),
        ({"generated__turns": {"mean": 2.0}}, "go together"),
        ({"engine__num_gpu_blocks_override": None}, "give one of num_gpu_blocks_override and gpu_memory_utilization"),
        ({"slo": {"met_frac": 0.9}}, "give at least one of ttft_s"),
        ({"engine__enable_chunked_prefill": False}, "without chunked prefill"),
    ],
)
def test_what_a_scenario_cannot_mean_is_refused_in_one_line(changes, problem):
    with pytest.raises(ScenarioError, match=problem) as refusal:
        scenario(**changes)
    assert "\n" not in str(refusal.value)


def write_rows(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


SESSION_ROWS = [
    {"session_id": "a", "timestamp": 500.5, "input_length": 8, "output_length": 2, "hash_ids": [1, 2]},
    {"session_id": "b", "timestamp": 1500, "input_length": 4, "output_length": 2, "hash_ids": [7]},
    {"session_id": "a", "delay": 2500, "input_length": 12, "output_length": 1, "hash_ids": [1, 2, 3]},
    {"session_id": "a", "delay": 250.5, "input_length": 16, "output_length": 1, "hash_ids": [1, 2, 3, 4]},
]


def stated(path, **changes):
    return trace_scenario(path, trace__format=None, trace__sessions="stated", **changes)


def test_sessions_and_delays_that_a_trace_states_are_kept(tmp_path):
    traffic = make_traffic(stated(write_rows(tmp_path / "t.jsonl", SESSION_ROWS)), None)
    assert traffic.sessions.first.tolist() == [0, 3, 4]
    assert traffic.requests.prompt_tokens.tolist() == [8, 12, 16, 4]
    assert traffic.sessions.start_s.tolist() == pytest.approx([0.0, 0.9995])
    assert traffic.sessions.pause_s.tolist() == pytest.approx([0.0, 2.5, 0.2505, 0.0])
    assert chains(traffic)[1][:2] == chains(traffic)[0][:2]
    assert traffic.reading == "mooncake (inferred), blocks of 4 tokens, times in ms"


def test_times_that_nobody_asks_for_may_be_absent_or_in_any_order(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "timestamp"} for row in SESSION_ROWS]
    rows[1]["timestamp"], rows[3]["timestamp"] = 9.0, 1.0
    arrivals = {"process": "poisson", "rate_hz": 1.0}
    traffic = make_traffic(stated(write_rows(tmp_path / "t.jsonl", rows), arrivals=arrivals), None)
    assert len(traffic.requests) == 4


def test_token_ids_share_blocks_of_the_engine_s_own_size(tmp_path):
    common = list(range(10))
    rows = [
        {"input_toks": 12, "output_toks": 3, "arrival_time_ns": at_ns, "input_tok_ids": [*common, at_ns, 99]}
        for at_ns in (0, 2_000_000_000)
    ]
    traffic = make_traffic(trace_scenario(write_rows(tmp_path / "t.jsonl", rows), trace__format=None), None)
    first, second = chains(traffic)
    assert first[:2] == second[:2] and not set(first[2:]) & set(second[2:])
    assert traffic.sessions.start_s.tolist() == [0.0, 2.0]


def test_text_becomes_tokens_by_the_tokenizer_that_is_stated(tmp_path):
    rows = [{"input": "abcdefgh", "output": "xyz", "timestamp": 0}, {"input": "abcdWXYZ", "output": "", "timestamp": 1}]
    path = write_rows(tmp_path / "t.jsonl", rows)
    traffic = make_traffic(trace_scenario(path, trace__format=None, trace__tokenizer="bytes"), None)
    first, second = chains(traffic)
    assert traffic.requests.prompt_tokens.tolist() == [8, 8] and traffic.requests.max_tokens.tolist() == [3, 1]
    assert first[0] == second[0] and first[1] != second[1]


@pytest.mark.parametrize(
    ("rows", "changes", "problem"),
    [
        (SESSION_ROWS, {"trace__sessions": "none"}, r"no time of arrival.*or set trace.sessions = 'stated'"),
        (SESSION_ROWS[1:2], {"trace__shared_tokens": 8}, "records contents: leave shared_tokens out"),
        ([{"num_prefill_tokens": 9, "num_decode_tokens": 2}], {}, "state what to assume: shared_tokens = 0"),
        (
            [{"num_prefill_tokens": 9, "num_decode_tokens": 2}],
            {"trace__shared_tokens": 0, "trace__sessions": "by-prefix"},
            "no contents to find sessions by",
        ),
        (
            [{"num_prefill_tokens": 9, "num_decode_tokens": 2}],
            {"trace__shared_tokens": 0, "trace__sessions": "stated"},
            "names no sessions",
        ),
        (
            [{"request_id": 1, "type": "text", "input_length": 8, "hash_ids": [1, 2]}],
            {"arrivals": {"process": "poisson", "rate_hz": 1.0}},
            "state trace.output_tokens",
        ),
        ([{"input": "abc", "output": "d", "timestamp": 0}], {}, "tokenizer should be 'bytes'"),
    ],
)
def test_what_a_trace_lacks_is_named_in_one_line(tmp_path, rows, changes, problem):
    path = write_rows(tmp_path / "t.jsonl", rows)
    with pytest.raises((TraceError, ScenarioError), match=problem) as refusal:
        make_traffic(trace_scenario(path, trace__format=None, **changes), None)
    assert "\n" not in str(refusal.value)


def test_outputs_that_a_trace_does_not_record_can_be_assumed(tmp_path):
    rows = [{"request_id": 1, "type": "text", "input_length": 8, "hash_ids": [1, 2]}]
    path = write_rows(tmp_path / "t.jsonl", rows)
    arrivals = {"process": "poisson", "rate_hz": 1.0}
    traffic = make_traffic(trace_scenario(path, trace__format=None, trace__output_tokens=7, arrivals=arrivals), None)
    assert traffic.requests.max_tokens.tolist() == [7]
