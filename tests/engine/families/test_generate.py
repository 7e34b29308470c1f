"""`model.generate` on a PagedCache gives what it gives on transformers' own, copied and padded, for every family."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from tests.engine import decoding  # noqa: E402
from tests.engine.decoding import FULL, cache_of  # noqa: E402

PROMPT_TOKENS, NEW_TOKENS = 70, 12


def paged(model, batch):
    return cache_of(model, FULL, policy="lru", pages=5, batch=batch, max_tokens=PROMPT_TOKENS + NEW_TOKENS)


def generate(model, ids, cache=None, **options):
    options = {"max_new_tokens": NEW_TOKENS, "attention_mask": torch.ones_like(ids)} | options  # 0 may be a token
    return decoding.generate(model, ids, cache, **options)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 256, (2, PROMPT_TOKENS), generator=torch.Generator().manual_seed(6))


def test_generation_goes_on_from_a_copy_made_half_way(model, ids):
    expected = generate(model, ids[:1])
    with paged(model, 1) as cache:
        half = generate(model, ids[:1], cache, max_new_tokens=5, prefill_chunk_size=32)
        with copy.deepcopy(cache) as copied:
            for one in (copied, cache):
                assert torch.equal(generate(model, half, one, max_new_tokens=NEW_TOKENS - 5), expected)
        assert cache.report().misses > 0


def test_padded_prompts_get_the_tokens_of_the_default_cache(model, ids):
    mask = torch.ones_like(ids)
    mask[1, :37] = 0
    expected = generate(model, ids, attention_mask=mask)
    with paged(model, 2) as cache:
        assert torch.equal(generate(model, ids, cache, attention_mask=mask), expected)
