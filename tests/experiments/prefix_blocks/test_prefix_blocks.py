"""Scenarios of prefix blocks: the command line from trace to figures, bad input, and simulated beside measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvsim.errors import ScenarioError
from kvsim.profile.prefill import prefill_cost
from kvsim.profile.profile import load_profile
from kvsim.scenario.shipped import find_profile, find_scenario
from tests.experiments.running import measure, printed, printed_json, refused, settings, simulate
from tests.experiments.tiny import write_tiny

ROWS = [
    {"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": [0, 1]},
    {"timestamp": 1000, "input_length": 1200, "output_length": 1, "hash_ids": [0, 1, 2]},
    {"timestamp": 2000, "input_length": 1200, "output_length": 1, "hash_ids": [0, 1, 2]},
]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def command(trace: Path, folder: Path, *overrides: str) -> list[str]:
    given = [f"trace.path={trace}", "trace.format=mooncake", *overrides]
    return ["run", "prefix_blocks", *settings(given), "-o", str(folder), "--json", "--no-figures"]


def run(capsys: pytest.CaptureFixture[str], trace: Path, folder: Path, *overrides: str) -> dict[str, Any]:
    return json.loads(printed(capsys, *command(trace, folder, *overrides)))


def test_a_trace_given_on_the_command_line_gives_one_cell_with_its_hit_rates(trace, tmp_path, capsys) -> None:
    (cell,) = run(capsys, trace, tmp_path, "cache.budget_blocks=10000", "cache.policy=lru")["cells"]
    assert cell["block_hit_frac"] == 4 / 8  # the last block of the third is found, and computed for its last token
    assert cell["token_hit_frac"] == pytest.approx((1024 + 1024) / 3424)
    assert cell["request_mean_hit_frac"] == pytest.approx((0 + 2 / 3 + 2 / 3) / 3)
    assert (cell["policy"], cell["budget_blocks"], cell["block_tokens"]) == ("lru", 10000, 512)
    assert cell["ttft_mean_s"] < cell["ttft_full_mean_s"]


def test_equal_runs_give_equal_summaries(trace, tmp_path, capsys) -> None:
    words = command(trace, tmp_path, "cache.budget_blocks=2", "cache.policy=lru")
    assert printed(capsys, *words) == printed(capsys, *words)


def test_a_lying_row_stops_the_command_with_file_and_line(trace, tmp_path, capsys) -> None:
    trace.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1] | {"hash_ids": [0]}))
    told = refused(capsys, *command(trace, tmp_path))
    assert told.startswith(f"{trace}:2: input_length 1200 is 3 blocks of 512 tokens, hash_ids has 1")


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["trace.format=azure"], ":1: no field TIMESTAMP, ContextTokens, GeneratedTokens"),
        (["trace.tokenizer=bytes"], "format 'mooncake' has no text: leave tokenizer out"),
        (["trace.shared_tokens=0"], "format 'mooncake' records contents: leave shared_tokens out"),
        (["cache.policy=lur"], "did you mean 'lru'?"),
        (["cache.index=radix", "cache.policy=arc"], "ranks leaves by lru, fifo or lfu"),
        (["trace.format=moncake"], "did you mean 'mooncake'?"),
    ],
)
def test_what_a_scenario_cannot_mean_is_told(trace, tmp_path, capsys, overrides, error) -> None:
    assert error in refused(capsys, *command(trace, tmp_path, *overrides))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Timestamp,Request tokens,Response tokens\n5,472,18\n", "state what to assume: shared_tokens = 0"),
        ('{"timestamp": 1, "input": "a", "output": "b"}', "tokenizer should be 'bytes' or the folder of a model"),
    ],
)
def test_what_a_trace_needs_besides_is_asked_for(tmp_path, capsys, text, error) -> None:
    (tmp_path / "trace").write_text(text)
    words = ["run", "prefix_blocks", "--set", f"trace.path={tmp_path / 'trace'}", "-o", str(tmp_path)]
    assert error in refused(capsys, *words)


@pytest.mark.parametrize("last", [{"timestamp": 4000}, {"delay": 4000}])
def test_how_busy_a_server_would_be_is_shown_only_where_every_arrival_is_known(trace, tmp_path, capsys, last) -> None:
    rows = [*ROWS[:2], {name: value for name, value in ROWS[2].items() if name != "timestamp"} | last]
    trace.write_text("\n".join(map(json.dumps, rows)))
    (cell,) = run(capsys, trace, tmp_path, "cache.budget_blocks=10", "cache.policy=lru")["cells"]
    expected = 3 * cell["ttft_mean_s"] / 4 if "timestamp" in last else None
    assert cell["prefill_load_frac"] == (expected if expected is None else pytest.approx(expected))


def test_lengths_alone_hit_only_what_is_assumed(tmp_path, capsys) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(f"2023-11-16 18:15:{n:02},160,1" for n in range(10, 14))
    )
    hits = {}
    for shared in (0, 64):
        given = ["trace.format=azure", f"trace.shared_tokens={shared}", "trace.shared_by=2", "cache.policy=lru"]
        summary = run(capsys, path, tmp_path, *given, "cache.budget_blocks=100")
        hits[shared] = summary["cells"][0]["hit_blocks"]
        assert any("assumption" in line for line in summary["verdict"])
    assert hits == {0: 0, 64: 2 * 4}


def test_a_radix_tree_and_a_block_index_hit_alike_where_nothing_leaves(trace, tmp_path, capsys) -> None:
    for index in ("hash", "radix"):
        given = [f"cache.index={index}", "cache.policy=lru", "cache.budget_blocks=100"]
        assert run(capsys, trace, tmp_path, *given)["cells"][0]["hit_blocks"] == 4


def test_more_hits_never_take_longer() -> None:
    overrides = ["trace.num_requests=200", "cache.policy=lru", "cache.budget_frac=[0.01, 0.1, 1.0]"]
    cells = simulate(find_scenario("prefix_blocks"), *overrides).summary["cells"]
    assert [cell["hit_blocks"] for cell in cells] == sorted(cell["hit_blocks"] for cell in cells)
    assert [cell["ttft_mean_s"] for cell in cells] == sorted((cell["ttft_mean_s"] for cell in cells), reverse=True)
    assert all(cell["block_hit_frac"] <= cell["bound_block_hit_frac"] for cell in cells)


def test_times_are_those_of_prefill_in_chunks_after_what_was_hit(trace) -> None:
    sets = [f"trace.path={trace}", "trace.format=mooncake", "prefill_chunk_tokens=300"]
    sets += ["cache.policy=lru", "cache.budget_blocks=10000"]
    rows = simulate(find_scenario("prefix_blocks"), *sets).rows
    cost = prefill_cost(load_profile(find_profile("cpu-smollm2-135m")), 300)
    assert cost is not None
    new = rows["input_tokens"] - rows["hit_tokens"]
    assert rows["hit_tokens"].tolist() == [0, 1024, 1024]
    assert rows["ttft_s"].tolist() == pytest.approx(cost.times_s(new, rows["hit_tokens"])[0].tolist())
    assert rows["ttft_full_s"].tolist() == pytest.approx(cost.times_s(rows["input_tokens"], 0)[0].tolist())


def test_figures_and_table_show_every_cell(trace, tmp_path, capsys) -> None:
    words = command(trace, tmp_path, 'cache.policy=["lru", "belady"]', "cache.budget_blocks=[1, 3]")
    text = printed(capsys, *words[:-2])
    assert text.count("belady") >= 2
    assert list(tmp_path.rglob("prefix_blocks.png"))
    (folder,) = (path.parent for path in tmp_path.rglob("summary.json"))
    assert printed(capsys, "show", str(folder)).splitlines()[0] in text


def test_a_prompt_longer_than_the_model_reads_and_another_model_are_refused(tiny_model_path, tmp_path) -> None:
    measured = '[measure]\ntext = "text.txt"\nsessions = 1\nturns = 1\nsystem_tokens = 600\nturn_tokens = 10\n'
    cache = '[trace]\npath = "agent-sessions"\nformat = "full-blocks"\n[cache]\npolicy = "lru"\n'
    head = 'schema_version = 1\nkind = "prefix-blocks"\nname = "tiny"\n'
    path = tmp_path / "s.toml"
    path.write_text(head + write_tiny(tiny_model_path, tmp_path) + cache + measured)
    sizes = ["model.shape.num_layers=7", "profile.allow_other_shape=true"]
    for overrides, line in (
        ([], "tiny: the longest prompt: 610 tokens, the model reads 512"),
        (sizes, r"tiny: the model in .* in these fields: num_layers \(\d, not 7\)"),
    ):
        with pytest.raises(ScenarioError, match=line):
            measure(path, *overrides)


@pytest.mark.model
def test_the_real_model_hits_what_the_simulator_says_and_answers_the_same(model_path, tmp_path, capsys) -> None:
    sets = ["cache.policy=lru", "cache.budget_frac=[0.4, 1.0]", f'model.path="{model_path}"']
    sets += ["measure.sessions=2", "measure.turns=2", "measure.system_tokens=64", "measure.turn_tokens=40"]
    found = printed_json(capsys, "crosscheck", "prefix_blocks", *settings(sets), "-o", str(tmp_path))
    assert found["counts_equal"]
    assert found["requests_equal"]
    assert found["next_token_agreement_frac"] == 1
    assert found["max_logit_difference"] < 1
    assert [cell["hit_blocks_measured"] > 0 for cell in found["cells"]] == [True, True]


def test_hits_need_no_cost_of_prefill_and_a_published_profile_is_not_to_be_calibrated(trace, tmp_path, capsys) -> None:
    published = ["model.shape=llama-3-8b", "profile.path=h200-llama-3-8b-published", "cache.policy=lru"]
    words = command(trace, tmp_path, "cache.budget_blocks=4", *published)
    summary = json.loads(printed(capsys, *words))
    (cell,) = summary["cells"]
    assert cell["block_hit_frac"] == 4 / 8
    assert (
        cell["ttft_mean_s"] is cell["ttft_full_mean_s"] is cell["ttft_saved_frac"] is cell["prefill_load_frac"] is None
    )
    assert any(line.startswith("Times are not known: ") and "no cost of prefill" in line for line in summary["verdict"])
    assert "calibrate again" not in " ".join(summary["verdict"])
    assert "  -  " in printed(capsys, *words[:-2])  # draws as well
    assert "no cost of prefill" in printed(capsys, "check", *words[1:-4])


def test_times_that_go_backward_are_reported_and_rows_replayed_in_their_order(trace, tmp_path, capsys) -> None:
    rows = [ROWS[0], ROWS[1] | {"timestamp": 5000}, ROWS[2] | {"timestamp": 4000}]
    trace.write_text("\n".join(map(json.dumps, rows)))
    summary = run(capsys, trace, tmp_path, "cache.budget_blocks=100", "cache.policy=lru")
    assert any(
        "go backward 1 times in the trace, first at request 3 (4 s after 5 s)" in line for line in summary["verdict"]
    )
    assert summary["cells"][0]["hit_blocks"] == 4


def test_a_load_above_one_is_said(trace, tmp_path, capsys) -> None:
    words = command(trace, tmp_path, "cache.budget_blocks=100", "cache.policy=lru")
    busy = json.loads(printed(capsys, *words))
    trace.write_text("\n".join(json.dumps(row | {"timestamp": 100 * row["timestamp"]}) for row in ROWS))
    calm = json.loads(printed(capsys, *words))
    assert calm["cells"][0]["prefill_load_frac"] < 1 < busy["cells"][0]["prefill_load_frac"]
    for summary, is_told in ((busy, True), (calm, False)):
        assert any(line.startswith("The load is ") for line in summary["verdict"]) is is_told


def test_a_prompt_longer_than_the_learned_positions_is_refused(trace, tmp_path, capsys) -> None:
    words = command(trace, tmp_path, "model.shape.learned_positions=1024", "profile.allow_other_shape=true")
    sizes = "num_layers=30, hidden_size=576, num_heads=9, num_kv_heads=9, head_dim=64, intermediate_size=1536"
    shape = f'model.shape={{{sizes}, vocab_size=49152, tied_embeddings=true, dtype="bf16", learned_positions=1024}}'
    words[words.index("model.shape.learned_positions=1024")] = shape
    told = refused(capsys, *words)
    assert "1,200 tokens of context; the model has learned embeddings for 1,024 positions" in told
