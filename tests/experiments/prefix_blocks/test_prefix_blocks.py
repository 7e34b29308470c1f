"""Scenarios of prefix blocks: the command line from trace to figures, bad input, and simulated beside measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kvsim.cli import run_command
from kvsim.errors import ScenarioError
from kvsim.experiments.prefix_blocks.simulate import prefill_times_s
from kvsim.experiments.registry import load_experiment, load_measurement
from kvsim.experiments.types import Job
from kvsim.profile.profile import load_profile
from kvsim.scenario.shipped import find_profile
from tests.experiments.tiny import load_named, write_tiny

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
    sets = [word for override in given for word in ("--set", override)]
    return ["run", "prefix_blocks", *sets, "-o", str(folder), "--json", "--no-figures"]


def test_a_trace_given_on_the_command_line_gives_one_cell_with_its_hit_rates(trace, tmp_path, capsys) -> None:
    assert run_command(command(trace, tmp_path, "cache.budget_blocks=10000", "cache.policy=lru")) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["block_hit_frac"] == 5 / 8
    assert cell["token_hit_frac"] == pytest.approx((1024 + 1200) / 3424)
    assert cell["request_mean_hit_frac"] == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert (cell["policy"], cell["budget_blocks"], cell["block_tokens"]) == ("lru", 10000, 512)
    assert cell["ttft_mean_s"] < cell["ttft_full_mean_s"]


def test_equal_runs_give_equal_summaries(trace, tmp_path, capsys) -> None:
    texts = []
    for _ in range(2):
        assert run_command(command(trace, tmp_path, "cache.budget_blocks=2", "cache.policy=lru")) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_a_lying_row_stops_the_command_with_file_and_line(trace, tmp_path, capsys) -> None:
    trace.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1] | {"hash_ids": [0]}))
    assert run_command(command(trace, tmp_path)) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{trace}:2: input_length 1200 is 3 blocks of 512 tokens, hash_ids has 1")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["trace.format=azure"], "say what to assume: shared_tokens = 0"),
        (["trace.format=sessions"], "tokenizer should be 'bytes' or the folder of a model"),
        (["cache.policy=lur"], "did you mean 'lru'?"),
        (["cache.index=radix", "cache.policy=arc"], "ranks leaves by lru, fifo or lfu"),
        (["trace.format=moncake"], "did you mean 'mooncake'?"),
    ],
)
def test_what_a_scenario_cannot_mean_is_told(trace, tmp_path, capsys, overrides, fault) -> None:
    assert run_command(command(trace, tmp_path, *overrides)) == 2
    assert fault in capsys.readouterr().err


def test_lengths_alone_hit_only_what_is_assumed(tmp_path, capsys) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(f"2023-11-16 18:15:{n:02},160,1" for n in range(10, 14))
    )
    hits = {}
    for shared in (0, 64):
        given = ["trace.format=azure", f"trace.shared_tokens={shared}", "trace.shared_by=2", "cache.policy=lru"]
        assert run_command(command(path, tmp_path, *given, "cache.budget_blocks=100")) == 0
        summary = json.loads(capsys.readouterr().out)
        hits[shared] = summary["cells"][0]["hit_blocks"]
        assert any("assumption" in line for line in summary["verdict"])
    assert hits == {0: 0, 64: 2 * 4}


def test_a_radix_tree_and_a_block_index_hit_alike_where_nothing_leaves(trace, tmp_path, capsys) -> None:
    found = []
    for index in ("hash", "radix"):
        given = [f"cache.index={index}", "cache.policy=lru", "cache.budget_blocks=100"]
        assert run_command(command(trace, tmp_path, *given)) == 0
        found.append(json.loads(capsys.readouterr().out)["cells"][0]["hit_blocks"])
    assert found == [5, 5]


def test_more_hits_never_take_longer() -> None:
    path = Path("scenarios/prefix_blocks.toml")
    overrides = ["trace.num_requests=200", "cache.policy=lru", "cache.budget_frac=[0.01, 0.1, 1.0]"]
    _, scenario = load_named(Path(__file__).parents[3] / path, overrides)
    kind = load_experiment("prefix-blocks")
    cells = kind.simulate(scenario, Job()).summary["cells"]
    assert [cell["hit_blocks"] for cell in cells] == sorted(cell["hit_blocks"] for cell in cells)
    assert [cell["ttft_mean_s"] for cell in cells] == sorted((cell["ttft_mean_s"] for cell in cells), reverse=True)
    assert all(cell["block_hit_frac"] <= cell["bound_block_hit_frac"] for cell in cells)


def test_prefill_of_many_is_the_profiles_cost_chunk_by_chunk() -> None:
    profile = load_profile(find_profile("cpu-smollm2-135m"))
    new, cached = np.array([10, 700, 1500, 0]), np.array([0, 300, 6000, 64])
    times_s, is_outside = prefill_times_s(profile, new, cached, 512)
    at_s = profile.prefill.at_s
    known_s = [
        at_s(10, 0),
        at_s(512, 300) + at_s(188, 812),
        at_s(512, 6000) + at_s(512, 6512) + at_s(476, 7024),
        0.0,
    ]
    assert times_s == pytest.approx(known_s)
    assert is_outside.tolist() == [False, False, True, False]


def test_figures_and_table_show_every_cell(trace, tmp_path, capsys) -> None:
    words = command(trace, tmp_path, 'cache.policy=["lru", "belady"]', "cache.budget_blocks=[1, 3]")
    words = [word for word in words if word not in ("--json", "--no-figures")]
    assert run_command(words) == 0
    text = capsys.readouterr().out
    assert text.count("belady") >= 2
    assert list(tmp_path.rglob("prefix_blocks.png"))
    (folder,) = (path.parent for path in tmp_path.rglob("summary.json"))
    assert run_command(["show", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[0] in text


def test_a_prompt_longer_than_the_model_reads_and_another_model_are_refused(tiny_model_path, tmp_path) -> None:
    measure = '[measure]\ntext = "text.txt"\nsessions = 1\nturns = 1\nsystem_tokens = 600\nturn_tokens = 10\n'
    cache = '[trace]\npath = "agent-sessions"\nformat = "full-blocks"\n[cache]\npolicy = "lru"\n'
    head = 'schema_version = 1\nkind = "prefix-blocks"\nname = "tiny"\n'
    path = tmp_path / "s.toml"
    path.write_text(head + write_tiny(tiny_model_path, tmp_path) + cache + measure)
    sizes = ["model.shape.num_layers=7", "profile.allow_other_shape=true"]
    for overrides, line in (
        ([], "tiny: the longest prompt: 610 tokens, the model reads 512"),
        (sizes, r"tiny: the model in .* in these fields: num_layers \(\d, not 7\)"),
    ):
        name, scenario = load_named(path, overrides)
        with pytest.raises(ScenarioError, match=line):
            load_measurement(name).measure(scenario, Job(base_dir=tmp_path))


@pytest.mark.model
def test_the_real_model_hits_what_the_simulator_says_and_answers_the_same(model_path, tmp_path, capsys) -> None:
    sets = ["cache.policy=lru", "cache.budget_frac=[0.4, 1.0]", f'model.path="{model_path}"']
    sets += ["measure.sessions=2", "measure.turns=2", "measure.system_tokens=64", "measure.turn_tokens=40"]
    words = [word for given in sets for word in ("--set", given)]
    assert run_command(["crosscheck", "prefix_blocks", *words, "-o", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts_equal"]
    assert found["requests_equal"]
    assert found["next_token_agreement_frac"] == 1
    assert found["max_logit_difference"] < 1
    assert [cell["hit_blocks_measured"] > 0 for cell in found["cells"]] == [True, True]
