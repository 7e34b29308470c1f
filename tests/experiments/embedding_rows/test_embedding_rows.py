"""A cache of embedding rows: counts alike simulated and measured, times that add up, and the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from kvsim.errors import CalibrationError, ResultError, ScenarioError
from kvsim.experiments.embedding_rows.calls import calls_of, requests_of, served_of
from kvsim.experiments.embedding_rows.clock import COSTS
from kvsim.experiments.registry import compare_results
from kvsim.profile.tables import CostTable
from kvsim.report.results import RunResult
from kvsim.traces.tokens.stream import StreamHeader, write_token_stream, zipf_tokens
from tests.experiments.named import load_named
from tests.experiments.running import check, measure, printed, printed_json, refused, settings, simulate
from tests.experiments.tiny import forward_table, write_tiny

SCENARIO = """
schema_version = 1
kind = "embedding-rows"
name = "tiny"
{ground}
[stream]
path = "tokens.jsonl"
[run]
mode = "steady"
prompt_tokens = 12
new_tokens = 5
[cache]
budget_rows = 16
[measure]
requests = 3
[sweep]
"run.mode" = ["cold", "warm", "steady", "prefetch"]
"cache.budget_rows" = [6, 40]
"""
EACH_S = dict(zip(COSTS, (1e-6, 2e-6, 1e-6, 3e-6, 20e-6, 2e-6, 1e-7, 4e-6, 1e-6), strict=True))
"""Seconds of one row in each part."""


def row_table(row_s: float) -> CostTable:
    """Return a cost that is linear in rows, whatever their bytes."""
    amounts = (0.0, 1000.0)
    return CostTable(amount="rows", amounts=amounts, time_s=tuple((row_s * n,) for n in amounts))


@pytest.fixture(scope="module")
def scenario_file(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding_rows")
    caches = {name: row_table(row_s) for name, row_s in EACH_S.items()}
    caches |= {f"forward@{batch}": forward_table() for batch in (1, 2)}
    ground = write_tiny(tiny_model_path, folder, caches, stated_bytes_per_s=2e8)
    (folder / "tiny.toml").write_text(SCENARIO.format(ground=ground))
    header = StreamHeader(vocab_size=256, tokenizer="", source="", licence="", recipe="")
    tokens = zipf_tokens(1.1, vocab_size=80, num_tokens=600, seed=1)
    write_token_stream(folder / "tokens.jsonl", header, [tokens[:100], tokens[100:]])
    return folder / "tiny.toml"


def both(file: Path, folder: Path, *overrides: str) -> tuple[RunResult, RunResult]:
    """Return a measured result, and one simulated on what it recorded."""
    measured, files = measure(file, *overrides)
    for name_of_file, content in files.items():
        (folder / name_of_file).write_bytes(content)
    return measured, simulate(file, *overrides, recorded=folder)


@pytest.mark.parametrize("policy", ["lru", "s3-fifo", "random", "belady", "second-touch"])
@pytest.mark.parametrize("batch", [1, 2])
def test_engine_and_simulator_count_alike_and_no_bit_of_a_logit_changes(scenario_file, tmp_path, policy, batch) -> None:
    measured, simulated = both(scenario_file, tmp_path, f"cache.policy={policy}", f"run.batch={batch}")
    contents = compare_results(simulated, measured).contents
    assert contents["counts_equal"], contents.get("divergence")
    assert contents["calls_equal"]
    assert contents["same_logits_frac"] == 1.0
    assert len(contents["cells"]) == 8
    assert any(cell["prefetched_rows_measured"] for cell in contents["cells"])


def test_a_bit_that_differs_is_told(scenario_file, tmp_path, tiny_model_path, monkeypatch) -> None:
    cache = pytest.importorskip("kvsim.experiments.embedding_rows.engine.cache").RowCache
    embed = cache.embed
    monkeypatch.setattr(cache, "embed", lambda self, ids: embed(self, ids) * 1.001)
    measured, simulated = both(scenario_file, tmp_path, "run.mode=steady", "cache.budget_rows=6")
    compared = compare_results(simulated, measured)
    assert compared.contents["same_logits_frac"] < 1.0
    assert "equal to the last bit in 0% of the calls" in compared.text


def test_a_call_takes_the_sum_of_its_parts(scenario_file) -> None:
    rows = simulate(scenario_file, "run.mode=cold", "cache.budget_rows=40").rows
    missed = rows["distinct_rows"] - rows["hit_rows"]
    look_up, state, fetch, merge = (
        sum(EACH_S[f"rows.{name}"] for name in names)
        for names in (["look-up"], ["accounting"], ["gather", "copy"], ["merge"])
    )
    hit_s, missed_s = rows["tokens"] * look_up, rows["tokens"] * state + rows["distinct_rows"] * merge + missed * fetch
    assert rows["embed_s"] == pytest.approx(np.where(missed, missed_s, hit_s))
    assert rows["wait_s"] == pytest.approx(missed * fetch)
    assert rows["plain_embed_s"] == pytest.approx(rows["tokens"] * EACH_S["rows.plain"])
    forward_s = 1e-3 + 1e-5 * rows["tokens"] + 1e-7 * np.where(rows["step"] == 0, 0, 11 + rows["step"])
    assert rows["plain_s"] == pytest.approx(forward_s)
    assert rows["call_s"] == pytest.approx(forward_s - rows["plain_embed_s"] + rows["embed_s"])


def test_modes_order_as_they_must(scenario_file) -> None:
    cells = {cell["mode"]: cell for cell in simulate(scenario_file, "cache.budget_rows=40").summary["cells"]}
    assert cells["warm"]["row_hit_frac"] == 1.0
    times = [cells[mode]["prompt_embed_mean_s"] for mode in ("warm", "prefetch", "steady", "cold")]
    assert times == sorted(times)
    assert cells["cold"]["missed_rows"] > cells["steady"]["missed_rows"] > cells["prefetch"]["missed_rows"]
    assert 0 < cells["prefetch"]["predicted_frac"] < 1
    assert cells["cold"]["predicted_frac"] is None


def test_cold_misses_each_distinct_row_of_a_request_once_where_all_fit(scenario_file) -> None:
    _, scenario = load_named(scenario_file)
    served = served_of(scenario.stream, 256, scenario_file.parent)
    requests = requests_of(scenario, served)
    expected = sum(len(set(request[:-1].tolist())) for batch in requests for request in batch)
    (cell,) = simulate(scenario_file, "run.mode=cold", "cache.budget_rows=100").summary["cells"]
    assert cell["missed_rows"] == expected
    assert cell["tokens"] == requests.size - requests.shape[0]  # the last token is never fed back


@pytest.mark.parametrize("mode", ["cold", "warm", "steady", "prefetch"])
def test_no_policy_beats_the_bound(scenario_file, mode) -> None:
    policies = 'cache.policy=["lru", "lfu", "fifo", "arc", "s3-fifo", "sieve", "random", "belady"]'
    for cell in simulate(scenario_file, f"run.mode={mode}", policies).summary["cells"]:
        assert cell["row_hit_frac"] <= cell["bound_hit_frac"] + 1e-12 or mode == "prefetch", cell
        assert cell["policy"] != "belady" or cell["row_hit_frac"] == pytest.approx(cell["bound_hit_frac"])


def test_one_cache_serves_all_requests_and_the_predictor_learns_only_what_is_not_served(scenario_file) -> None:
    _, scenario = load_named(scenario_file, ["run.mode=prefetch"])
    served = served_of(scenario.stream, 256, scenario_file.parent)
    assert (served.learnt.size, served.tokens.size) == (300, 300)
    calls = calls_of(scenario, requests_of(scenario, served), None)
    assert [call.is_fresh for call in calls] == [True] + [False] * (len(calls) - 1)
    assert calls[0].ahead.tolist() == calls[5].tokens.reshape(-1).tolist()
    assert calls[-5].ahead.size == 0  # nobody queues behind the last one


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["cache.policy=lur"], "unknown cache policy 'lur'; did you mean 'lru'?"),
        (["cache.budget_bytes=3"], "cache.budget_bytes 3 is less than a row's 256"),
        (["stream.train_frac=1.0"], "train_frac should be at least 0 and less than 1, found 1.0"),
        (["stream.drawn_tokens=9"], "drawn_tokens goes with drawn = 'zipf'"),
        (["run.requests=99"], "leaves 300 tokens to serve; 99 requests of 17 need 1683"),
        (["run.mode=prefetch", "stream.train_frac=0.0"], "prefetch.bigram_rows learns from stream.train_frac"),
        (["stream.path=p.toml"], "is a text: stream.tokenizer should be the folder of a model"),
        (["stream.path=none.jsonl"], "no such token stream"),
        (["run.batch=3"], "no cost 'forward@3'"),
        (["run.mode=hot"], "run.mode"),
    ],
)
def test_what_a_scenario_cannot_mean_is_told_in_one_line(scenario_file, tmp_path, capsys, overrides, error) -> None:
    given = settings(["run.mode=cold", "cache.budget_rows=6", *overrides])
    assert error in refused(capsys, "run", str(scenario_file), *given, "-o", str(tmp_path))


def test_a_profile_without_rows_says_to_calibrate_again(tiny_model_path, scenario_file, tmp_path) -> None:
    (tmp_path / "tiny.toml").write_text(SCENARIO.format(ground=write_tiny(tiny_model_path, tmp_path)))
    (tmp_path / "tokens.jsonl").write_bytes((scenario_file.parent / "tokens.jsonl").read_bytes())
    with pytest.raises(
        CalibrationError,
        match=r"no cost 'rows.plain'; it has .*; it is exact, not measured: take one that `kvsim calibrate` wrote",
    ):
        check(tmp_path / "tiny.toml")


def test_tokens_beyond_the_vocabulary_are_refused_and_can_be_drawn_instead(scenario_file) -> None:
    _, scenario = load_named(scenario_file)
    with pytest.raises(ScenarioError, match=r"model.shape has 20 rows; set stream.drawn = 'zipf'"):
        served_of(scenario.stream, 20, scenario_file.parent)
    _, drawn = load_named(scenario_file, ["stream.drawn=zipf", "stream.drawn_tokens=500"])
    served = served_of(drawn.stream, 5000, scenario_file.parent)
    assert served.is_drawn and served.tokens.size == 250
    (cell, *_) = simulate(scenario_file, "stream.drawn=zipf").summary["cells"]
    assert cell["is_drawn"] and cell["zipf_exponent"] == pytest.approx(served.zipf_exponent)


def test_memory_saved_is_none_where_the_head_shares_the_table(scenario_file) -> None:
    tied, untied = (
        simulate(scenario_file, "run.mode=cold", "cache.budget_rows=6", *more).summary["cells"][0]
        for more in ([], ["model.shape.tied_embeddings=false", "profile.allow_other_shape=true"])
    )
    assert tied["saved_bytes"] == -tied["cache_bytes"]
    assert untied["saved_bytes"] == 256 * 256 - untied["cache_bytes"]
    assert tied["cache_bytes"] > 6 * 256  # what passes through is on the device too
    assert untied["computes_as"] == "test" and tied["computes_as"] is None


def test_budgets_of_bytes_and_of_the_vocabulary_are_rows(scenario_file) -> None:
    for budget in ("cache.budget_bytes=10 KiB", "cache.budget_frac=0.15625"):
        (cell,) = simulate(scenario_file, "run.mode=cold", budget).summary["cells"]
        assert cell["budget_rows"] == 40


def test_results_of_other_tokens_are_not_compared(scenario_file) -> None:
    measured, _ = measure(scenario_file, "run.mode=cold")
    with pytest.raises(ResultError, match="of different tokens; replay the measured ones"):
        compare_results(simulate(scenario_file, "run.mode=cold"), measured)


def test_a_measurement_that_would_read_other_tokens_in_each_cell_is_refused(scenario_file) -> None:
    with pytest.raises(ScenarioError, match=r"sweeps run\.mode, cache and prefetch"):
        measure(scenario_file, "run.prompt_tokens=[4, 8]")


def test_the_commands_walk_through(scenario_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "crosscheck", str(scenario_file), "-o", str(tmp_path))
    assert "counts equal: yes" in out and "equal to the last bit in 100% of the calls" in out
    shown = printed(capsys, "show", out.rpartition("simulated: ")[2].strip())
    assert "nothing is saved" in shown and "prefetch" in shown
    cells = printed_json(capsys, "run", str(scenario_file), "-o", str(tmp_path))["cells"]
    assert {"token_hit_frac", "row_hit_frac", "saved_bytes", "tokens_per_s", "prompt_embed_mean_s"} <= set(cells[0])
    assert list(tmp_path.rglob("embedding_rows.png"))
