"""`copy.deepcopy` of a `PagedCache`: a second cache that goes on from the same tokens, as transformers' own do."""

from __future__ import annotations

import copy
import dataclasses

import pytest

torch = pytest.importorskip("torch")

from transformers import DynamicCache  # noqa: E402

from kvsim.engine.model.forward import logits_of  # noqa: E402
from kvsim.errors import KvsimError  # noqa: E402
from kvsim.experiments.prompt_cache.engine.cache import PromptCache  # noqa: E402
from tests.engine import decoding  # noqa: E402
from tests.engine.decoding import FULL, cache_of  # noqa: E402
from tests.engine.test_paged_cache import assert_untouched  # noqa: E402

PREFIX_TOKENS, PROMPT_TOKENS, NEW_TOKENS = 100, 120, 30


@pytest.fixture(params=["tiny_model", "tiny_gpt2"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def ids():
    return torch.randint(3, 256, (3, PROMPT_TOKENS), generator=torch.Generator().manual_seed(3))


def cache_for(model, policy, *overrides, pages=9):
    max_tokens = PROMPT_TOKENS + 2 * NEW_TOKENS
    return cache_of(model, f"run.policies=[{policy}]", *overrides, pages=pages, max_tokens=max_tokens)


def generate(model, ids, cache, num_tokens=NEW_TOKENS):
    return decoding.generate(model, ids, cache, max_new_tokens=num_tokens)


def counts_of(cache):
    """Return the report but for what depends on the clock."""
    return {name: value for name, value in dataclasses.asdict(cache.report()).items() if name != "late"}


POLICIES = [
    '"resident"',
    '"stream"',
    '"lru"',
    '"attention"',
    '{name="arc", label="p", arguments={prefetch="learned"}}',
    '{name="sieve", label="p", arguments={prefetch="corrected", admission="second-touch"}}',
    '{name="s3-fifo", label="p", arguments={prefetch="attention", compiled=false}}',
    '{name="attention", label="p", arguments={compiled=false}}',
]


@pytest.mark.parametrize("policy", ['"resident"', '"stream"', '"lru"', '"attention"'])
def test_a_prefix_is_reused_by_copies_as_with_the_default_cache(model, ids, policy):
    """transformers' recipe: compute what prompts share once, and copy the cache for each of them."""
    ids[:, :PREFIX_TOKENS] = ids[0, :PREFIX_TOKENS]
    shared, default = cache_for(model, policy, FULL, pages=11), DynamicCache(config=model.config)
    for cache in (shared, default):
        with torch.no_grad():
            logits_of(model, ids[:1, :PREFIX_TOKENS], cache)
    copies = []
    for row in range(3):
        prompt = ids[row : row + 1]
        copies.append(copy.deepcopy(shared))
        assert torch.equal(generate(model, prompt, copies[-1]), generate(model, prompt, copy.deepcopy(default)))
        assert copies[-1].report().num_steps == NEW_TOKENS - 1
    assert shared.get_seq_length() == PREFIX_TOKENS
    assert shared.report().num_steps == 0
    assert torch.equal(generate(model, ids[:1], shared), generate(model, ids[:1], default))
    for cache in (*copies, shared):
        cache.close()
    assert_untouched(model)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_copy_made_between_two_steps_decides_and_counts_as_the_original_goes_on_to(tiny_model, ids, policy):
    caches = [cache_for(tiny_model, policy, pages=11 if policy == '"stream"' else 9)]
    start = generate(tiny_model, ids[:1], caches[0])
    caches.append(copy.deepcopy(caches[0]))
    assert counts_of(caches[1]) == counts_of(caches[0])
    other = generate(tiny_model, torch.cat((start, ids[:1, :1]), dim=1)[:, : start.shape[1]], caches[1])
    caches.append(copy.deepcopy(caches[0]))  # after the first copy went on: the original has not
    ends = [generate(tiny_model, start, cache) for cache in (caches[2], caches[0])]
    assert torch.equal(ends[0], other)
    assert torch.equal(ends[1], other)
    reports = [counts_of(cache) for cache in caches]
    assert reports[0]["num_steps"] == 2 * NEW_TOKENS - 1
    assert reports[0] == reports[1] == reports[2]
    for cache in caches:
        cache.close()
    assert_untouched(tiny_model)


@pytest.mark.parametrize("policy", ['"sink-window"', '"h2o"'])
def test_a_policy_that_drops_pages_is_copied_with_what_it_kept(tiny_model, ids, policy):
    cache = cache_for(tiny_model, policy, pages=5)
    start = generate(tiny_model, ids[:1], cache)
    copied = copy.deepcopy(cache)
    assert torch.equal(generate(tiny_model, start, copied), generate(tiny_model, start, cache))
    assert counts_of(copied) == counts_of(cache)
    for one in (cache, copied):
        one.close()


def test_the_copy_of_a_copy_and_the_end_of_the_original_are_no_trouble(tiny_model, ids):
    with cache_for(tiny_model, '"lru"', FULL, pages=11) as cache:
        start = generate(tiny_model, ids[:1], cache)
        copied = copy.deepcopy(copy.deepcopy(cache))
    end = generate(tiny_model, start, copied)
    assert torch.equal(end, generate(tiny_model, ids[:1], DynamicCache(config=tiny_model.config), 2 * NEW_TOKENS))
    copied.close()
    assert_untouched(tiny_model)


def test_a_closed_cache_and_one_in_the_middle_of_a_step_are_not_copied(tiny_model, ids, monkeypatch):
    with cache_for(tiny_model, '"lru"') as cache:
        start = generate(tiny_model, ids[:1], cache)

        def cut_short(*arguments, **options):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(tiny_model.model.layers[1].mlp, "forward", cut_short)
            with pytest.raises(KeyboardInterrupt):
                generate(tiny_model, start, cache)
        with pytest.raises(KvsimError, match="cannot be copied: a decode step of it is under way, or was cut short"):
            copy.deepcopy(cache)
    with pytest.raises(KvsimError, match="cannot be copied: it is closed"):
        copy.deepcopy(cache)
    assert_untouched(tiny_model)


def test_a_prompt_cache_is_not_copied(tiny_model):
    with PromptCache(tiny_model) as cache, pytest.raises(KvsimError, match="a PromptCache is not copied"):
        copy.deepcopy(cache)
