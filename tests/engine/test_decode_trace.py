"""A run records what it read, and the simulator that replays the record decides the same, page by page."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.policies import make_policy  # noqa: E402
from kvsim.policies.selectors import Threshold, TopK  # noqa: E402
from kvsim.sim import Replay  # noqa: E402
from tests.engine.decoding import PAGE_TOKENS, input_for, record, run, simulate, snapshot_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_STEPS = 40
COUNTS = (
    "selected",
    "hits",
    "misses",
    "prefetched",
    "used",
    "wasted",
    "evicted",
    "to_device_bytes",
    "to_host_bytes",
    "digest",
)


@pytest.fixture(scope="module", params=[1, 2])
def snapshot(tiny_model, request):
    return snapshot_of(tiny_model, prompt_tokens=200, num_steps=NUM_STEPS, num_sequences=request.param)


SELECTORS = {
    "top-k": TopK(k_pages=3, sink_pages=1, recent_pages=1),
    "threshold": Threshold(threshold=0.8, max_k_pages=5, sink_pages=1, recent_pages=1),
    "full": None,
}


@pytest.mark.parametrize("name", list(SELECTORS))
def test_simulator_and_engine_count_and_decide_alike(tiny_model, snapshot, tmp_path, name):
    selector = SELECTORS[name]
    first = input_for(snapshot, "resident", num_steps=NUM_STEPS, pages_per_layer=1, selector=selector)
    trace, _ = record(tiny_model, snapshot, first, tmp_path / "run.trace")
    replay = Replay(trace, selector, channel="estimate:quest", page_tokens=PAGE_TOKENS, num_steps=NUM_STEPS)

    for policy, pages in itertools.product(("resident", "stream", "lru", "attention"), (10, 11, 13)):
        given = input_for(
            snapshot,
            policy,
            num_steps=NUM_STEPS,
            pages_per_layer=pages,
            selector=selector,
            pinned=(1, 1),
        )
        measured = run(tiny_model, snapshot, given).counts
        assert replay.grid == given.setting.grid
        simulated = simulate(replay, given, make_policy(policy, given.setting, {}))
        for count in COUNTS:
            assert np.array_equal(measured[count], simulated[count]), (policy, pages, count)
        assert policy == "resident" or measured["evicted"].sum() > 0


def test_recorded_mass_is_that_of_attention_over_the_pages_read(tiny_model, tmp_path):
    snapshot = snapshot_of(tiny_model, prompt_tokens=100, num_steps=6)
    given = input_for(snapshot, "resident", num_steps=6, pages_per_layer=1)
    trace, result = record(tiny_model, snapshot, given, tmp_path / "full.trace")

    ids = torch.randint(3, 256, (1, 100), generator=torch.Generator().manual_seed(0))
    ids = torch.cat((ids, snapshot.next_token, result.tokens), dim=1)
    before = tiny_model.config._attn_implementation
    tiny_model.set_attn_implementation("eager")
    try:
        for step in (0, 5):
            with torch.inference_mode():
                attentions = tiny_model(ids[:, : 101 + step], output_attentions=True).attentions
            for layer in range(3):
                by_token = attentions[layer][0, :, -1].mean(0)
                by_page = torch.nn.functional.pad(by_token, (0, -by_token.numel() % 16)).reshape(-1, 16).sum(1)
                found = trace.mass(step, layer, PAGE_TOKENS)[0].astype(np.float32)
                np.testing.assert_allclose(found, by_page.numpy(), atol=1e-3)
    finally:
        tiny_model.set_attn_implementation(before)


def test_recorded_selection_and_scores_are_those_of_the_run(tiny_model, snapshot, tmp_path):
    selector = SELECTORS["top-k"]
    given = input_for(snapshot, "lru", num_steps=NUM_STEPS, pages_per_layer=8, selector=selector)
    trace, result = record(tiny_model, snapshot, given, tmp_path / "run.trace")
    for step in (0, NUM_STEPS - 1):
        selected = 0
        for layer in range(3):
            selection = trace.selection(step, layer, PAGE_TOKENS)
            scores = trace.scores(step, layer, "estimate:quest", PAGE_TOKENS)
            for sequence in range(snapshot.num_sequences):
                chosen = selector.select(scores[sequence], selection.shape[1])
                assert np.flatnonzero(selection[sequence]).tolist() == chosen.tolist()
            selected += int(selection.sum())
        assert selected == result.counts["selected"][step]
