"""`model.generate` on a PagedCache gives what it gives on transformers' own, copied and padded, for every family."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from kvsim.engine.model.families import decoder_layers  # noqa: E402
from tests.engine import decoding  # noqa: E402
from tests.engine.decoding import FULL, cache_of  # noqa: E402
from tests.engine.families.models import tiny_model_of  # noqa: E402

PROMPT_TOKENS, NEW_TOKENS = 70, 12


def paged(model, batch, pages=5):
    return cache_of(model, FULL, policy="lru", pages=pages, batch=batch, max_tokens=PROMPT_TOKENS + NEW_TOKENS)


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


def test_a_model_with_one_layer_with_pages_gets_the_tokens_of_the_default_cache(model, ids):
    """Its prompt's pass begins and ends in the same layer; Gemma 3 has such a layer for every five without pages."""
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"]
    others = {} if model.config.model_type == "gpt2" else {"num_hidden_layers": len(set(kinds))}
    others |= {"layer_types": sorted(set(kinds), reverse=True)} if len(set(kinds)) > 1 else {"n_layer": 1}
    single = tiny_model_of(model.config.model_type, **others)
    assert len(decoder_layers(single)) == 1
    mask = torch.ones_like(ids)
    mask[1, :37] = 0
    expected = [generate(single, ids[:1]), generate(single, ids, attention_mask=mask)]
    for batch, tokens in enumerate(expected, start=1):
        with paged(single, batch, pages=6) as cache:
            options = {"attention_mask": mask[:batch], "prefill_chunk_size": 32 if batch == 1 else None}
            assert torch.equal(generate(single, ids[:batch], cache, **options), tokens)
            assert cache.report().prompt_tokens == PROMPT_TOKENS
            assert cache.report().num_steps == NEW_TOKENS - 1
