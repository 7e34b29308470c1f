"""A conversation on one PagedCache gives the tokens of one on transformers' own cache, for every family."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from transformers import DynamicCache  # noqa: E402

from tests.engine.decoding import FULL, cache_of, generate  # noqa: E402

TURN_TOKENS, NEW_TOKENS = (59, 27, 1, 15), 6
"""New prompt tokens of each turn; the last token generated before comes with them."""
MAX_TOKENS = sum(TURN_TOKENS) + len(TURN_TOKENS) * NEW_TOKENS


def paged(model, batch, pages):
    return cache_of(model, FULL, policy="lru", pages=pages, batch=batch, max_tokens=MAX_TOKENS)


def converse(model, prompts, cache, padding=()):
    """Return all ids after every turn; `padding` hides the first tokens of the second sequence's turns."""
    ids, mask = prompts[0][:, :0], prompts[0][:, :0]
    for place, prompt in enumerate(prompts):
        shown = torch.ones_like(prompt)
        if place < len(padding):
            shown[1, : padding[place]] = 0
        ids, mask = torch.cat((ids, prompt), 1), torch.cat((mask, shown), 1)
        ids = generate(model, ids, cache, attention_mask=mask, max_new_tokens=NEW_TOKENS)
        mask = torch.cat((mask, torch.ones_like(ids[:, mask.shape[1] :])), 1)
    return ids


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(3, 256, (2, tokens), generator=generator) for tokens in TURN_TOKENS]


@pytest.mark.parametrize("pages", [6, 7])
def test_turns_on_one_cache_are_those_of_the_default_cache(model, prompts, pages):
    alone = [prompt[:1] for prompt in prompts]
    expected = converse(model, alone, DynamicCache(config=model.config))
    with paged(model, 1, pages) as cache:
        assert torch.equal(converse(model, alone, cache), expected)
    report = cache.report()
    assert report.misses > 0 and report.hits + report.misses == report.selected
    assert report.prompt_tokens + report.num_steps == expected.shape[1] - 1


@pytest.mark.parametrize("pages", [6, 7])
def test_turns_of_a_batch_padded_on_the_left_are_those_of_the_default_cache(model, prompts, pages):
    padding = (23, 5)  # a page and a part of one, then a part
    expected = converse(model, prompts, DynamicCache(config=model.config), padding)
    with paged(model, 2, pages) as cache:
        assert torch.equal(converse(model, prompts, cache, padding), expected)
    report = cache.report()
    assert report.misses > 0 and report.hits + report.misses == report.selected
