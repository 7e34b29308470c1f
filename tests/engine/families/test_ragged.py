"""A batch of prompts of unequal length gives what each prompt gives alone, for every family."""

from __future__ import annotations

import functools

import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.model.layers import window_layers  # noqa: E402
from kvsim.engine.paged.prefill import prefill  # noqa: E402
from kvsim.policies.selectors import TopK  # noqa: E402
from tests.engine.decoding import default_cache_logits, input_for, run  # noqa: E402
from tests.engine.families.models import WINDOW_TOKENS  # noqa: E402

PROMPTS, NUM_STEPS = (90, 41, 17), 10
"""The second is padded by more than a chunk, the third has one token more than a page and is within a window; pages
open and fill at steps of their own."""


def padded(prompts, ids):
    """Return the prompts of `prompts` tokens, padded on the left with a token that is no prompt's."""
    rows = [torch.cat((torch.full((max(prompts) - tokens,), 2), own)) for tokens, own in zip(prompts, ids, strict=True)]
    return torch.stack(rows)


def assert_close(model, logits, expected):
    """Compare logits; padding shifts the chunks of transformers' delta nets, which round by their place in a chunk."""
    atol = 2e-3 if model.config.model_type.startswith(("qwen3_next", "qwen3_5")) else 5e-5
    torch.testing.assert_close(logits, expected, rtol=2e-5, atol=atol)


@functools.lru_cache(maxsize=1)
def batch(model):
    """Return the batch's snapshot, and logits and greedy tokens of each prompt alone on transformers' own cache."""
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, 256, (tokens,), generator=generator) for tokens in PROMPTS]
    snapshot = prefill(model, padded(PROMPTS, ids), room_tokens=NUM_STEPS, chunk_tokens=50, sequence_tokens=PROMPTS)
    alone = [default_cache_logits(model, own[None], NUM_STEPS) for own in ids]
    return snapshot, ids, torch.cat([logits for logits, _ in alone]), torch.cat([tokens for _, tokens in alone])


@pytest.mark.parametrize("policy", ["resident", "lru", "stream"])
def test_each_prompt_of_a_batch_has_the_tokens_and_logits_that_it_has_alone(model, policy):
    snapshot, _, logits, tokens = batch(model)
    assert not window_layers(model.config) or min(PROMPTS) + 1 < WINDOW_TOKENS < max(PROMPTS)
    for pages in (6, 7):
        result = run(model, snapshot, input_for(snapshot, policy, num_steps=NUM_STEPS, pages_per_layer=pages))
        assert torch.equal(result.tokens, tokens)
        assert_close(model, result.logits, logits)
        of_layer = sum(-(-(tokens + 1) // 16) for tokens in PROMPTS)
        assert result.counts["selected"][0] == of_layer * snapshot.num_layers


@pytest.mark.parametrize("policy", ["lru", "attention"])
@pytest.mark.parametrize("channel", ["estimate:quest", "estimate:mean", "estimate:cuboid-mean", "speculate:next-layer"])
def test_each_prompt_of_a_batch_has_the_pages_chosen_that_it_has_chosen_alone(model, policy, channel):
    """The choice is not by padding, nor by another prompt's pages: the same tokens at two budgets as alone."""
    snapshot, ids, *_ = batch(model)
    options = {"selector": TopK(k_pages=1, sink_pages=1, recent_pages=1), "channel": channel, "num_steps": NUM_STEPS}
    expected, selected = [], 0
    for own in ids:
        alone = prefill(model, own[None], room_tokens=NUM_STEPS, chunk_tokens=50)
        result = run(model, alone, input_for(alone, "resident", pages_per_layer=7, **options))
        expected.append(result.logits)
        selected += result.counts["selected"]
    moved = 0
    for pages in (3, 4):
        given = input_for(snapshot, policy, pages_per_layer=pages, pinned=(1, 1), **options)
        result = run(model, snapshot, given)
        assert_close(model, result.logits, torch.cat(expected))
        assert (result.counts["selected"] == selected).all()
        moved += result.counts["to_device_bytes"].sum()
    assert moved > 0
