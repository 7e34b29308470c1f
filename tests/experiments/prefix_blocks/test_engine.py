"""Prompts through a real store of blocks: the same logits as without one, and a wrong block is seen."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kvsim.caches.prefix import PrefixCache, make_eviction  # noqa: E402
from kvsim.experiments.prefix_blocks.engine.run import answer  # noqa: E402
from kvsim.experiments.prefix_blocks.engine.store import BlockStore  # noqa: E402

SYSTEM = np.arange(40) % 250
PROMPTS = [
    np.concatenate([SYSTEM, np.full(number + 9, 7 * number % 250), np.arange(11)]).astype(np.int64)
    for number in (0, 1, 0, 2, 1, 0)
]


def through_cache(model, budget: int, prompts=PROMPTS):
    cache = PrefixCache(budget, make_eviction("lru", budget))
    store = BlockStore(model, num_slots=budget, block_tokens=8)
    found = [answer(model, prompt, chunk_tokens=16, cache=cache, store=store, block_tokens=8) for prompt in prompts]
    return found, store


@pytest.mark.parametrize("budget", [3, 6, 9, 40])
@pytest.mark.parametrize("name", ["tiny_model", "tiny_gpt2"])
def test_answers_are_those_without_a_cache(name, budget, request) -> None:
    model = request.getfixturevalue(name)
    found, _ = through_cache(model, budget)
    for prompt, answered in zip(PROMPTS, found, strict=True):
        alone = answer(model, prompt, chunk_tokens=512)
        torch.testing.assert_close(answered.logits, alone.logits, rtol=1e-4, atol=1e-4)
        assert answered.logits.argmax() == alone.logits.argmax()
    assert sum(answered.num_hits for answered in found) > 0


def test_a_prompt_found_to_its_end_computes_its_last_block(tiny_model) -> None:
    prompt = PROMPTS[0][:56]
    found, _ = through_cache(tiny_model, 40, [prompt, prompt])
    assert found[1].num_hits == 6
    torch.testing.assert_close(found[0].logits, found[1].logits, rtol=1e-4, atol=1e-4)


def test_a_block_of_another_place_changes_the_answer(tiny_model) -> None:
    cache, store = PrefixCache(40, make_eviction("lru", 40)), BlockStore(tiny_model, num_slots=40, block_tokens=8)
    options = {"chunk_tokens": 16, "cache": cache, "store": store, "block_tokens": 8}
    right = answer(tiny_model, PROMPTS[0], **options).logits
    store._slots[0] = store._slots[5]  # merely swapping two would not do: keys carry their positions
    assert not torch.allclose(answer(tiny_model, PROMPTS[0], **options).logits, right, rtol=1e-2, atol=1e-2)


def test_a_slot_that_was_never_written_is_seen(tiny_model) -> None:
    store = BlockStore(tiny_model, num_slots=4, block_tokens=8)
    assert torch.isnan(store.restore([2], 8).layers[0].keys).all()
    assert store.size_bytes == 4 * 3 * 2 * 2 * 8 * 16 * 4
