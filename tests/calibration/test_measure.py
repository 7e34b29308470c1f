"""Calibration measures the engine's own parts: whatever is made slower shows where it belongs, and only there."""

from __future__ import annotations

import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from transformers.models.llama.modeling_llama import LlamaMLP  # noqa: E402

from kvsim.calibration import calibrate, measure  # noqa: E402
from kvsim.calibration.bench import SHORT_TOKENS  # noqa: E402
from kvsim.calibration.host_costs import TIMED_POLICIES  # noqa: E402
from kvsim.calibration.plan import FULL, QUICK, SPOT, Plan  # noqa: E402
from kvsim.engine.links.page_pool import PagePool  # noqa: E402
from kvsim.engine.paged import paged_run  # noqa: E402
from kvsim.engine.paged.speculation import Speculation  # noqa: E402
from kvsim.errors import CalibrationError, KvsimError  # noqa: E402
from kvsim.experiments.registry import all_cost_tables  # noqa: E402
from kvsim.policies import Paged  # noqa: E402
from kvsim.profile.profile import load_profile, write_profile  # noqa: E402
from tests.accesses import SHAPE as THREE_LAYERS  # noqa: E402

SHAPE = THREE_LAYERS.model_copy(update={"num_layers": 6})
TINY = Plan(
    page_tokens=(16,),
    batches=(1, 2),
    attended_tokens={128: (32, 128), 256: (128,)},
    num_steps=3,
    decided_pages=(3, 6),
    decided_contexts_tokens=(64, 192),
    num_decided_steps=2,
    pieces=(1, 4),
    link_cap_s=0.05,
    prefill_tokens=(8, 32),
    cached_tokens=(0, 32),
    num_prefills=2,
    num_slowed_steps=4,
    forward_new_tokens=(1, 16),
    forward_cached_tokens=(0, 24),
    num_forwards=2,
    restored_tokens=(8, 64),
    row_counts=(1, 8),
    row_bytes=(64, 256),
    row_cap_s=0.005,
    row_table_bytes=2**20,
)
BANDWIDTH_BYTES_PER_S = 20e6
_NOT_ASKED = ("prefill", "policies.stream", "link.to_device", "link.to_host")


@pytest.fixture(autouse=True)
def tiny_plan(monkeypatch):
    monkeypatch.setattr(measure, "QUICK", TINY)


def _profile(model=None, **options):
    fixed = {"quick": True, "bandwidth_bytes_per_s": BANDWIDTH_BYTES_PER_S, "cost_tables": all_cost_tables()}
    return calibrate(model, **fixed, **(options if model else {"shape": SHAPE, "name": "tiny"} | options))


def test_a_profile_is_whole_and_reads_back_as_it_was_written(tmp_path):
    stages = []
    profile = _profile(progress=lambda stage, done, total: stages.append((stage, done, total)))
    write_profile(profile, tmp_path / "tiny.toml")
    assert load_profile(tmp_path / "tiny.toml") == profile

    assert profile.synchronous and profile.link.emulated and profile.kind == "measured"
    assert profile.machine.num_threads == 1
    assert set(profile.policies) == {name for name, _ in TIMED_POLICIES}
    assert profile.segments["attention"].device.columns == (1.0, 2.0)
    assert profile.segments["speculate"].device.amounts == (8.0, 16.0)
    assert all(table.num_samples for table in profile.tables().values())
    page_bytes = SHAPE.page_bytes(16)
    for pieces in (1, 4):
        stated_s = pieces * page_bytes / BANDWIDTH_BYTES_PER_S
        assert stated_s <= profile.link.to_device.transfer_s(pieces, page_bytes) < stated_s + 0.02
    expected = {"compute", "decisions", "link", "other caches", "prefill", "prompts", "embedding rows"}
    assert {stage for stage, _, _ in stages} == expected
    for stage in {stage for stage, _, _ in stages}:
        last = [entry for entry in stages if entry[0] == stage][-1]
        assert 0.9 * last[2] <= last[1] <= 3 * last[2]


def test_what_is_made_slower_shows_in_its_own_part(monkeypatch):
    slower_s = 6e-3
    before = _profile()

    def delayed(function):
        def wrapped(*args, **kwargs):
            time.sleep(slower_s)
            return function(*args, **kwargs)

        return wrapped

    for owner, name, part in (
        (LlamaMLP, "forward", "segments.attention_output"),
        (paged_run, "choose", "segments.select"),
        (PagePool, "check", "segments.attention"),
        (Speculation, "scores", "segments.speculate"),
        (Paged, "decide", "policies.lru"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, delayed(getattr(owner, name)))
            after = _profile()
        for table_name, table in after.tables().items():
            if table_name.startswith("caches.") or table_name in _NOT_ASKED:
                continue  # the model itself is in prefill and in calls of it; the others are not what is asked
            added_s = table.time_s[0][0] - before.tables()[table_name].time_s[0][0]
            assert (added_s > 0.8 * slower_s) == (table_name == part), (part, table_name, added_s)


def keeps_promises(plan):
    """Check that contexts and amounts are whole pages of every batch."""
    for page_tokens in plan.page_tokens:
        for context, amounts in plan.attended_tokens.items():
            for batch in plan.batches:
                assert context % (batch * page_tokens) == 0
                assert all(amount <= context for amount in amounts)
                assert all(amount % (batch * page_tokens) == 0 for amount in amounts if amount // batch >= page_tokens)


def test_plans_meet_what_they_promise():
    for plan in (FULL, QUICK, TINY):
        keeps_promises(plan)
    assert set(dataclasses.asdict(FULL)) == set(dataclasses.asdict(QUICK))


@given(
    plan=st.sampled_from([FULL, QUICK, dataclasses.replace(SPOT, page_tokens=(64,))]),
    positions=st.integers(512, 20_000),
)
def test_a_plan_for_few_positions_stays_within_them_and_keeps_its_promises(plan, positions):
    found = plan.within(positions)
    assert found.num_positions <= positions
    assert (found == plan) == (plan.num_positions <= positions)
    keeps_promises(found)
    assert len(found.attended_tokens) >= min(2, len(plan.attended_tokens))
    if plan in (FULL, QUICK):  # a spot check times one amount, and no decisions
        assert len({amount for amounts in found.attended_tokens.values() for amount in amounts}) >= 2
        assert len(found.decided_contexts_tokens) >= 2
        assert found.decided_pages[1] <= found.decided_contexts_tokens[1] // found.middle_page_tokens
        assert max(found.decided_pages) <= max(found.decided_contexts_tokens) // found.middle_page_tokens
    for name in ("prefill_tokens", "cached_tokens", "forward_new_tokens", "forward_cached_tokens", "decided_pages"):
        assert len(getattr(found, name)) >= 2


def test_too_few_positions_are_one_line():
    with pytest.raises(CalibrationError, match="the model has 511 positions; calibration needs 512"):
        FULL.within(511)
    assert FULL.within(None) is FULL


def test_a_model_with_few_learned_positions_is_calibrated_up_to_them(tiny_gpt2, tiny_tokenizer, tmp_path, monkeypatch):
    """GPT-2 has 1,024 positions; a text beyond them has no embedding."""
    tiny_gpt2.save_pretrained(tmp_path / "gpt2")
    tiny_tokenizer.save_pretrained(tmp_path / "gpt2")
    long = dataclasses.replace(
        TINY,
        attended_tokens={128: (32, 128), 3328: (128, 3328)},
        decided_contexts_tokens=(704, 4928),
        cached_tokens=(0, 4672),
    )
    monkeypatch.setattr(measure, "QUICK", long)
    profile = _profile(tmp_path / "gpt2", dtype="fp32")
    assert profile.shape.learned_positions == 512
    assert profile.segments["attention"].device.amounts[-1] == 512 - SHORT_TOKENS
    assert profile.prefill.columns[-1] + profile.prefill.amounts[-1] == 512


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give a model or a shape"),
        ({"model": "x", "shape": "smollm2-135m"}, "give a model or a shape"),
        ({"shape": "smolm2-135m"}, "no such path, and no model that ships; did you mean 'smollm2-135m'?"),
        ({"shape": "qwen3-30b-a3b"}, "random weights are those of a Llama; the shape has experts: give a model"),
        ({"shape": "gpt2"}, "the shape has learned positions: give a model"),
    ],
)
def test_faults_of_the_user_are_one_line(arguments, message):
    with pytest.raises(KvsimError) as caught:
        calibrate(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_one_line():
    with pytest.raises(CalibrationError, match=r"^no CUDA device: .*--device cpu.*$"):
        calibrate(shape="smollm2-135m", device="cuda")


def test_the_other_caches_have_a_table_a_batch():
    caches = {name: table for name, table in _profile().caches.items() if name.startswith("forward@")}
    assert set(caches) == {"forward@1", "forward@2"}
    for table in caches.values():
        assert (table.amounts, table.columns) == ((1.0, 16.0), (0.0, 24.0))
        assert table.num_samples == 8
        assert min(min(row) for row in table.time_s) > 0


def test_states_of_a_prompt_have_a_table_a_tier_and_the_host_is_behind_the_link():
    caches = _profile().caches
    token_bytes = SHAPE.num_layers * SHAPE.page_bytes(1)
    for what in ("restore", "store"):
        near, far = caches[f"{what}.device"], caches[f"{what}.host"]
        assert near.amounts == far.amounts == (8.0, 64.0)
        for tokens in near.amounts:
            stated_s = tokens * token_bytes / BANDWIDTH_BYTES_PER_S
            assert stated_s <= far.at_s(tokens) < stated_s + 0.02
            assert 0 < near.at_s(tokens) < stated_s
