"""Prompts padded on the left in a PagedCache: padding owns no page, and its counts are those of a measured batch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transformers import DynamicCache  # noqa: E402

from kvsim.engine.model.forward import CACHE_ARGUMENT  # noqa: E402
from kvsim.engine.paged.decode import decode  # noqa: E402
from kvsim.engine.paged.padding import Padding  # noqa: E402
from kvsim.engine.paged.prefill import prefill  # noqa: E402
from kvsim.errors import KvsimError  # noqa: E402
from tests.engine.decoding import FAST_BYTES_PER_S, FULL  # noqa: E402
from tests.engine.test_paged_cache import (  # noqa: E402
    NEW_TOKENS,
    PROMPT_TOKENS,
    cache_for,
    concrete_input,
    generate,
)

PROMPTS = (PROMPT_TOKENS, PROMPT_TOKENS - 43)
COUNTS = ("selected", "hits", "misses", "prefetched", "used", "wasted", "evicted", "to_device_bytes", "to_host_bytes")


@pytest.fixture
def ids():
    return torch.randint(3, 256, (2, PROMPT_TOKENS), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def mask(ids):
    mask = torch.ones_like(ids)
    mask[1, :43] = 0  # two pages and a part of the third
    return mask


@pytest.mark.parametrize("policy", ["lru", "attention"])
def test_padded_prompts_count_what_a_measured_batch_of_unequal_length_counts(tiny_model, ids, mask, policy):
    with cache_for(tiny_model, "selector.k_pages=2", policy=policy, pages=6) as cache:
        generated = generate(tiny_model, ids, cache, attention_mask=mask)
    snapshot = prefill(tiny_model, ids, room_tokens=NEW_TOKENS, sequence_tokens=PROMPTS)
    given = concrete_input(tiny_model, "selector.k_pages=2", policy=policy, pages=6)
    forced = generated[:, PROMPT_TOKENS:-1]
    object.__setattr__(given, "num_steps", forced.shape[1])
    result = decode(tiny_model, snapshot, given, bandwidth_bytes_per_s=FAST_BYTES_PER_S, forced_tokens=forced)
    assert torch.equal(result.tokens, generated[:, PROMPT_TOKENS + 1 :])
    report = cache.report()
    assert report.misses > 0
    for name in COUNTS:
        assert getattr(report, name) == result.counts[name].sum(), name


def test_a_turn_reads_the_padded_text_again(tiny_model, ids, mask):
    dense = DynamicCache(config=tiny_model.config)
    first = generate(tiny_model, ids, dense, attention_mask=mask, max_new_tokens=12)
    whole = torch.cat((first, ids[:, :20]), 1)
    longer = torch.ones_like(whole)
    longer[:, :PROMPT_TOKENS] = mask
    longer[0, first.shape[1] : first.shape[1] + 7] = 0  # and the second turn of the other is padded
    expected = generate(tiny_model, whole, dense, attention_mask=longer, max_new_tokens=20)
    with cache_for(tiny_model, FULL, pages=9, max_tokens=PROMPT_TOKENS + 60) as cache:
        assert torch.equal(generate(tiny_model, ids, cache, attention_mask=mask, max_new_tokens=12), first)
        assert torch.equal(generate(tiny_model, whole, cache, attention_mask=longer, max_new_tokens=20), expected)
    assert cache.report().misses > 0


def test_a_step_that_shows_the_padding_is_refused(tiny_model, ids, mask):
    with cache_for(tiny_model, FULL) as cache, torch.no_grad():
        tiny_model(ids, attention_mask=mask, **{CACHE_ARGUMENT: cache})
        with pytest.raises(KvsimError, match=r"^the attention mask of a decode step shows tokens that it hid from"):
            tiny_model(ids[:, :1], **{CACHE_ARGUMENT: cache})


@pytest.mark.parametrize("last", [158, 159, 160])
def test_a_sequence_may_end_where_a_page_opens(tiny_model, last):
    """Its last token is at place `last`, and a page begins at place 160; the other sequence goes on."""
    ids = torch.randint(3, 256, (2, PROMPT_TOKENS), generator=torch.Generator().manual_seed(7))
    options = {"do_sample": False, "pad_token_id": 0, "max_new_tokens": NEW_TOKENS}
    plain = generate(tiny_model, ids)
    end = int(plain[1, last])
    assert (plain[:, PROMPT_TOKENS : last + 1] == end).sum() == 1
    expected = tiny_model.generate(ids, eos_token_id=end, **options)
    with cache_for(tiny_model, FULL, pages=7, end_token_ids=(end,)) as cache:
        found = tiny_model.generate(ids, **{CACHE_ARGUMENT: cache}, eos_token_id=end, **options)
    assert torch.equal(found, expected)


def test_padding_is_taken_out_and_put_back():
    visible = np.array([[0, 0, 1, 1, 1], [1, 0, 0, 1, 1]], dtype=np.bool_)
    text = torch.arange(1, 15).reshape(2, 1, 7).clone()
    tokens = text * torch.tensor([[[0, 0, 1, 1, 1, 0, 0]], [[1, 0, 0, 1, 1, 0, 0]]])
    before, padding = tokens.clone(), Padding(visible)
    padding.take_out(tokens)
    assert tokens[:, 0].tolist() == [[3, 4, 5, 0, 0, 0, 0], [8, 11, 12, 0, 0, 0, 0]]
    tokens[0, 0, 3:5] = torch.tensor([6, 7])  # two steps; the other sequence ended after none
    padding.put_back(tokens, np.array([5, 3]))
    before[0, 0, 5:] = torch.tensor([6, 7])
    assert torch.equal(tokens, before)
