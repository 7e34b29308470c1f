"""The path that times transformers' own caches: exact, timed as pages are, copies counted; a stand-in without a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import DynamicCache  # noqa: E402

from kvsim.engine.paged.baselines import CopyCounts, decode_on, offloaded_cache  # noqa: E402
from tests.engine.decoding import PAGE_TOKENS, default_cache_logits, snapshot_of  # noqa: E402

PROMPT, STEPS = 75, 12


def resident_cache(model):
    return DynamicCache(config=model.config)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_cache_filled_from_a_snapshot_decodes_what_the_default_cache_does(tiny_model, batch):
    snapshot = snapshot_of(tiny_model, prompt_tokens=PROMPT, num_steps=STEPS, num_sequences=batch)
    ids = torch.randint(3, 256, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    _, tokens = default_cache_logits(tiny_model, ids, STEPS)
    forced = torch.cat((snapshot.next_token, tokens[:, :-1]), dim=1)
    threads = torch.get_num_threads()
    result = decode_on(resident_cache, tiny_model, snapshot, forced, page_tokens=PAGE_TOKENS, counts_copies=True)
    assert torch.equal(result.tokens, tokens)
    assert (result.step_s > 0).all() and result.step_s.shape == (STEPS,)
    pages = [-(-(PROMPT + 1 + step) // PAGE_TOKENS) * 3 * batch for step in range(STEPS)]
    assert result.counts["selected"].tolist() == pages
    assert not result.counts["to_device_bytes"].any()  # the stand-in moves nothing
    assert torch.get_num_threads() == threads


def test_what_layers_move_is_counted_by_direction_and_only_if_it_moves():
    def layer(device):
        made = SimpleNamespace(is_initialized=True, device="cuda")

        def to(place):
            made.keys = SimpleNamespace(device=place, nbytes=100)
            made.values = SimpleNamespace(device=place, nbytes=28)

        made.prefetch, made.offload = lambda: to("cuda"), lambda: to("cpu")
        to(device)
        return made

    first, second = layer("cpu"), layer("cuda")
    counts = CopyCounts([first, second])
    first.prefetch()
    second.prefetch()  # it is there
    assert counts.read() == (128, 0)
    first.offload()
    second.offload()
    second.offload()
    assert counts.read() == (0, 256)
    assert counts.read() == (0, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="transformers' offloaded cache needs a CUDA device")
def test_offloaded_cache_moves_every_layer_both_ways_at_each_step(tiny_model):
    model = tiny_model.to("cuda")
    try:
        snapshot = snapshot_of(model, prompt_tokens=PROMPT, num_steps=STEPS)
        forced = torch.randint(3, 256, (1, STEPS), generator=torch.Generator().manual_seed(1))
        plain = decode_on(resident_cache, model, snapshot, forced, page_tokens=PAGE_TOKENS, counts_copies=True)
        moved = decode_on(offloaded_cache, model, snapshot, forced, page_tokens=PAGE_TOKENS, counts_copies=True)
        assert torch.equal(plain.tokens, moved.tokens)
        kv_bytes = np.array([2 * 2 * 16 * 4 * 3 * (PROMPT + 1 + step) for step in range(STEPS)])
        np.testing.assert_array_equal(moved.counts["to_host_bytes"], kv_bytes)
        assert (moved.counts["to_device_bytes"] > 0).all()
    finally:
        tiny_model.to("cpu")
