"""The longest context: found where memory ends and not a page later, by what the engine really holds, never fatal."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

import torch

from kvsim.calibration.machine import device_memory_bytes, free_memory_bytes
from kvsim.cli import run_command
from kvsim.engine.links.base import EmulatedLink
from kvsim.engine.paged.fresh_run import fresh_run
from kvsim.errors import ScenarioError
from kvsim.experiments.decode import max_context
from kvsim.experiments.decode.cells import Cell
from kvsim.experiments.decode.engine import probe as context_probe
from kvsim.experiments.decode.engine.inputs import decode_input, resolve_measured
from kvsim.experiments.decode.engine.probe import ContextProbe, need_of
from kvsim.experiments.decode.max_context import Record, find_longest, longest_contexts
from kvsim.experiments.decode.report.max_context import max_context_text
from kvsim.experiments.types import Job
from kvsim.profile.profile import load_profile, write_profile
from kvsim.scenario.decode import load_scenario
from tests.experiments.decode.measured import scenario_file as scenario_file

PAGE_TOKENS = 16
OPTIONS = (
    'profile.device_memory="2 MB"',
    'run.policies=["resident", "lru", "sink-window"]',
    "budget.context_frac=0.5",
    "run.batch=1",
)
"""Changes of the small measured scenario: a small device, and neither budget nor batch swept."""


def cells(file: Path, *options: str) -> list[Cell]:
    return resolve_measured(load_scenario(file, [*OPTIONS, *options]), Job(base_dir=file.parent))


def found(file: Path, *options: str) -> list[Record]:
    return longest_contexts(load_scenario(file, [*OPTIONS, *options]), Job(base_dir=file.parent))


@settings(max_examples=200)
@given(
    limit=st.integers(0, 10**7), first=st.integers(1, 10**6), grain=st.sampled_from([1, 16, 32]), close=st.booleans()
)
def test_the_search_ends_at_the_limit_after_few_tries(limit: int, first: int, grain: int, close: bool) -> None:
    tried: list[int] = []

    def ran_out(tokens: int) -> Any:
        tried.append(tokens)
        return "device memory" if tokens > limit else None

    longest = find_longest(ran_out, first, grain=grain, close_frac=0.01 if close else 0.0)
    assert longest.ran_out == "device memory"
    assert all(tokens % grain == 0 for tokens in tried)
    exact = limit // grain * grain
    if exact == 0:
        assert longest.tokens is None
    else:
        assert longest.tokens is not None
        assert exact - (0.01 * exact if close else 0) - grain < longest.tokens <= exact
    assert len(tried) <= 2 * math.log2(10**7) + 4


def test_a_length_too_short_is_passed_by_on_the_way_to_one_that_works() -> None:
    def ran_out(tokens: int) -> Any:
        return "budget" if tokens < 300 else "device memory" if tokens > 400 else None

    arguments: dict[str, Any] = {"first": 1600, "grain": 16, "close_frac": 0.0}
    assert find_longest(ran_out, **arguments, too_short=lambda why: why == "budget").tokens == 400


def test_each_policy_ends_a_page_before_the_device_is_full_and_is_decoded_to(scenario_file: Path) -> None:
    records = found(scenario_file)
    assert [record["policy"] for record in records] == ["resident", "lru", "sink-window"]
    by_policy = {record["policy"]: record for record in records}
    for cell, record in zip(cells(scenario_file), records, strict=True):
        assert record["ran_out"] == "device memory"
        assert record["was_run"] is True
        assert record["device_bytes"] <= 2_000_000
        longer = decode_input(max_context._at(cell, record["max_context_tokens"] + PAGE_TOKENS))
        need = need_of(longer, cell.shape, weights_bytes=record["weights_bytes"], keeps_host_pages=True)
        assert need.device_bytes > 2_000_000
    assert by_policy["lru"]["max_context_tokens"] > 1.5 * by_policy["resident"]["max_context_tokens"]
    # What drops pages holds all of them when prefill ends; it saves the summaries, because it scores none.
    assert by_policy["sink-window"]["max_context_tokens"] < 1.2 * by_policy["resident"]["max_context_tokens"]
    assert by_policy["resident"]["host_bytes"] == 0 == by_policy["sink-window"]["host_bytes"]
    kv_bytes = by_policy["lru"]["max_context_tokens"] * cell.page_bytes // PAGE_TOKENS * cell.shape.num_layers
    assert by_policy["lru"]["host_bytes"] == kv_bytes


@pytest.mark.parametrize("channel", ["estimate:quest", "estimate:mean", "estimate:cuboid-mean"])
@pytest.mark.parametrize("batch", [1, 2])
def test_counted_bytes_are_those_of_the_tensors_that_a_run_holds(
    scenario_file: Path, tiny_model: Any, channel: str, batch: int
) -> None:
    options = [f'selector.channel="{channel}"', f"run.batch={batch}"]
    options.append('run.policies=["lru", {name = "lru", label = "predicted", arguments = {prefetch = "speculation"}}]')
    for cell in cells(scenario_file, *options):
        input_ = decode_input(max_context._at(cell, 320))
        need = need_of(input_, cell.shape, weights_bytes=0, keeps_host_pages=True)
        probe = ContextProbe(tiny_model, cell.shape, mechanism="memcpy")
        snapshot = probe._snapshot(input_, 318, keeps_host_pages=True)
        with torch.inference_mode():
            run = fresh_run(tiny_model, input_, snapshot, lambda pool: EmulatedLink(pool, 1e12))
        run.link.close()
        scoring, pool = run._scoring, run.pool
        assert scoring is not None
        parts = [part for one in scoring._all_summaries for _, part in one._parts]
        held = [tensor for part in parts for tensor in vars(part).values()]
        assert need.summary_bytes == sum(one.nbytes for one in held if isinstance(one, torch.Tensor))
        assert need.slots_bytes == pool.slots.nbytes
        assert need.host_bytes == pool.host_pages.nbytes


def test_a_batch_of_two_reaches_half_as_far(scenario_file: Path) -> None:
    records = found(scenario_file, "run.batch=[1, 2]", "run.policies=lru,sink-window")
    one, two = ([record for record in records if record["run.batch"] == batch] for batch in (1, 2))
    for short, long in zip(two, one, strict=True):
        assert short["max_context_tokens"] == pytest.approx(long["max_context_tokens"] / 2, rel=0.1)
        assert short["was_run"] is True


def test_cells_that_differ_in_context_alone_are_one(scenario_file: Path) -> None:
    assert len(found(scenario_file, "sweep.measure.prompt_tokens=[100, 150]", "run.policies=lru")) == 1


def test_stream_reaches_further_the_less_it_keeps(scenario_file: Path) -> None:
    records = found(scenario_file, "run.policies=stream", "budget.context_frac=[0.75, 0.9]")
    assert [record["was_run"] for record in records] == [True, True]
    assert records[0]["max_context_tokens"] > records[1]["max_context_tokens"]


def test_what_runs_out_may_be_host_memory_or_the_budget(scenario_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (record,) = found(scenario_file, "budget.context_frac=none", "budget.pages_per_layer=40", "run.policies=stream")
    assert (record["ran_out"], record["max_context_tokens"]) == (
        "budget",
        928,
    )  # two layers whole, a sink and two recent pages of the third
    monkeypatch.setattr(max_context, "free_memory_bytes", lambda: 2_000_000)
    (record,) = found(scenario_file, "run.policies=lru")
    assert record["ran_out"] == "host memory"
    taken = record["device_bytes"] + record["host_bytes"]
    assert 0.95 * 1_800_000 < taken <= 1_800_000


def test_no_length_works_where_the_weights_alone_do_not_fit(scenario_file: Path) -> None:
    (record,) = found(scenario_file, 'profile.device_memory="100 KB"', "run.policies=lru")
    assert record["max_context_tokens"] is None
    assert (record["ran_out"], record["was_run"]) == ("device memory", False)
    assert "none" in max_context_text([record])


def test_random_weights_stand_in_for_a_model_that_is_not_named(scenario_file: Path) -> None:
    file = scenario_file.with_name("unnamed.toml")
    file.write_text(re.sub('path = ".*"\n', "", scenario_file.read_text(), count=1))
    (record,) = found(file, "run.policies=lru")
    assert record["was_run"] is True


def test_a_device_that_runs_out_in_a_trial_ends_the_search_and_nothing_else(
    scenario_file: Path, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU torch raises; here a decode that raises beyond 5,000 tokens stands in for it."""
    profile = load_profile(scenario_file.parent / "p.toml")
    write_profile(profile.model_copy(update={"device": "cuda", "synchronous": False}), tmp_path / "gpu.toml")
    gpu = f"profile.path={tmp_path / 'gpu.toml'}"
    decode, tried = context_probe.decode, []

    def limited(model: Any, snapshot: Any, given: Any, **options: Any) -> Any:
        tried.append(snapshot.prompt_tokens + context_probe.NUM_STEPS)
        if tried[-1] > 5000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return decode(model, snapshot, given, **options)

    monkeypatch.setattr(context_probe, "decode", limited)
    monkeypatch.setattr(max_context, "_model", lambda cell, base_dir: tiny_model)
    (record,) = found(scenario_file, gpu, "run.policies=lru", 'profile.device_memory="1 GB"')
    assert record["found_by"] == "trial"
    assert record["ran_out"] == "device memory"
    assert 4950 <= record["max_context_tokens"] <= 5000
    assert tried[:6] == [176, 352, 704, 1408, 2816, 5632]
    assert tried[-1] == record["max_context_tokens"]


def test_a_fault_that_is_not_memory_is_not_taken_for_it(
    scenario_file: Path, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(context_probe, "decode", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        found(scenario_file, "run.policies=lru")


def test_what_needs_the_future_or_a_gpu_is_refused(scenario_file: Path) -> None:
    with pytest.raises(ScenarioError, match="'belady' needs the future"):
        found(scenario_file, "run.policies=belady")
    with pytest.raises(ScenarioError, match="needs a CUDA device"):
        found(scenario_file, "run.policies=hf-offloaded")


def test_free_memory_is_some_and_less_than_there_is() -> None:
    assert 0 < free_memory_bytes() < device_memory_bytes("cpu")


def test_the_command_prints_a_table_or_json_and_keeps_a_result(
    scenario_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [word for change in (*OPTIONS, "run.policies=resident,lru") for word in ("--set", change)]
    command = ["measure", str(scenario_file), "--max-context", *changes]
    assert run_command(command) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["policy", "tokens", "device", "host", "ran", "out"]
    assert "2 of 2 were then decoded to" in printed
    assert "The model was made to read 512 tokens" in printed
    assert run_command([*command, "--json", "-o", str(tmp_path)]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["policy"] for cell in cells] == ["resident", "lru"]
    (folder,) = (tmp_path / "tiny-max-context").iterdir()
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "summary.json", "table.txt"}


def test_scenarios_of_other_kinds_are_refused_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["measure", "kv_on_off", "--max-context"]) == 2
    assert "--max-context is for scenarios of kind 'decode'" in capsys.readouterr().err
