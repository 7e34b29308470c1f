"""Prefetchers and policies that drop decide on the real model as the simulator does that replays its record."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.policies import PREFETCHERS, make_policy  # noqa: E402
from kvsim.policies.future import Oracle  # noqa: E402
from kvsim.policies.selectors import TopK  # noqa: E402
from kvsim.sim import Replay  # noqa: E402
from kvsim.sim.replay import ReplayFuture  # noqa: E402
from tests.engine.decoding import PAGE_TOKENS, input_for, record, run, simulate, snapshot_of  # noqa: E402
from tests.engine.test_decode_trace import COUNTS  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_STEPS = 24
SELECTOR = TopK(k_pages=3, sink_pages=1, recent_pages=1)


@pytest.fixture(scope="module", params=[1, 2])
def snapshot(tiny_model, request):
    return snapshot_of(tiny_model, prompt_tokens=200, num_steps=NUM_STEPS, num_sequences=request.param)


def test_every_prefetcher_counts_alike_live_and_replayed(tiny_model, snapshot, tmp_path):
    resident = input_for(snapshot, "resident", num_steps=NUM_STEPS, pages_per_layer=1, selector=SELECTOR)
    resident = dataclasses.replace(resident, records_speculation=True)
    trace, _ = record(tiny_model, snapshot, resident, tmp_path / "run.kvtrace")
    replay = Replay(trace, SELECTOR, channel="estimate:quest", page_tokens=PAGE_TOKENS, num_steps=NUM_STEPS)
    fetched = {}
    for prefetch, entry in PREFETCHERS.items():
        for pages in (5, 8):  # fewer than a selection has, and more
            given = input_for(
                snapshot, "lru", num_steps=NUM_STEPS, pages_per_layer=pages, selector=SELECTOR, pinned=(1, 1), quota=3
            )
            eviction = "belady" if entry.is_oracle else "lru"
            live, replayed = (make_policy(eviction, given.setting, {"prefetch": prefetch}) for _ in range(2))
            if isinstance(live, Oracle):
                live.foresee(ReplayFuture(replay, everything=False))
            measured = run(tiny_model, snapshot, dataclasses.replace(given, policy=live)).counts
            simulated = simulate(replay, given, replayed)
            for count in COUNTS:
                np.testing.assert_array_equal(
                    measured[count], simulated[count], err_msg=f"{prefetch}, {pages}: {count}"
                )
            fetched[prefetch] = fetched.get(prefetch, 0) + int(measured["prefetched"].sum())
    assert fetched.pop("none") == 0
    assert all(fetched.values()), f"a prefetcher that fetched nothing was not put to the test: {fetched}"


@pytest.mark.parametrize("policy", ["sink-window", "h2o", "snapkv"])
def test_dropping_counts_alike_live_and_replayed(tiny_model, snapshot, tmp_path, policy):
    given = input_for(
        snapshot, policy, num_steps=NUM_STEPS, pages_per_layer=6, selector=SELECTOR, pinned=(1, 1), quota=0
    )
    trace, result = record(tiny_model, snapshot, given, tmp_path / "run.kvtrace")
    measured = result.counts
    replay = Replay(trace, SELECTOR, channel="estimate:quest", page_tokens=PAGE_TOKENS, num_steps=NUM_STEPS)
    simulated = simulate(replay, given, make_policy(policy, given.setting, {}))
    for count in COUNTS:
        np.testing.assert_array_equal(measured[count], simulated[count], err_msg=count)
    assert measured["evicted"].sum() > 0
    assert not measured["misses"].any() and not measured["to_device_bytes"].any()
    assert (measured["selected"] == 6 * 3 * snapshot.num_sequences).all()


def test_dropping_nothing_gives_the_logits_of_full_attention(tiny_model, tmp_path):
    snapshot = snapshot_of(tiny_model, prompt_tokens=100, num_steps=8)
    whole = run(tiny_model, snapshot, input_for(snapshot, "resident", num_steps=8, pages_per_layer=1))
    kept = run(tiny_model, snapshot, input_for(snapshot, "sink-window", num_steps=8, pages_per_layer=7, pinned=(1, 1)))
    dropped = run(
        tiny_model, snapshot, input_for(snapshot, "sink-window", num_steps=8, pages_per_layer=4, pinned=(1, 1))
    )
    torch.testing.assert_close(kept.logits, whole.logits, rtol=2e-5, atol=2e-5)
    assert not torch.allclose(dropped.logits, whole.logits, atol=1e-3)
