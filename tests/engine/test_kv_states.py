"""States of tokens leave a cache and come back as they were, from either tier, in one transfer."""

from __future__ import annotations

import time

import pytest
import torch
from transformers import DynamicCache

from kvsim.engine.links.states import EmulatedStateLink, KVStates, keep, make_link, move, restore
from kvsim.engine.model.forward import CACHE_ARGUMENT

FAST_BYTES_PER_S = 1e10


@pytest.fixture
def link():
    made = make_link("cpu", FAST_BYTES_PER_S)
    yield made
    made.close()


def ids(num_tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 256, (1, num_tokens), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def filled(model, tokens: torch.Tensor) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    model(tokens, **{CACHE_ARGUMENT: cache})
    return cache


@pytest.mark.parametrize("name", ["tiny_model", "tiny_gpt2"])
@pytest.mark.parametrize("tier", ["device", "host"])
def test_what_follows_restored_states_is_computed_as_after_the_tokens_themselves(name, tier, link, request) -> None:
    model = request.getfixturevalue(name)
    tokens = ids(60)
    kept = keep(filled(model, tokens), tier=tier, link=link)
    with torch.inference_mode():
        expected = model(tokens).logits[:, 40:]
        found = model(tokens[:, 40:], **{CACHE_ARGUMENT: restore([kept.tokens(0, 40)], link)}).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "tiers", [("host", "host", "host"), ("host", "device", "host"), ("device", "device", "device")]
)
def test_parts_are_joined_in_order_with_one_transfer(tiny_model, tiers, link) -> None:
    cache = filled(tiny_model, ids(30))
    bounds = (0, 7, 18, 30)
    parts = [keep(cache, bounds[n], bounds[n + 1], tier=tier, link=link) for n, tier in enumerate(tiers)]
    before = link.num_transfers
    found = restore(parts, link)
    assert link.num_transfers - before == (1 if "host" in tiers else 0)
    for mine, layer in zip(found.layers, cache.layers, strict=True):
        assert torch.equal(mine.keys, layer.keys)
        assert torch.equal(mine.values, layer.values)


@pytest.mark.parametrize("tier", ["device", "host"])
def test_states_stay_as_they_were_while_a_restored_cache_grows(tiny_model, tier, link) -> None:
    kept = keep(filled(tiny_model, ids(20)), tier=tier, link=link)
    before = kept.tensor.clone()
    with torch.inference_mode():
        for seed in (1, 2):
            tiny_model(ids(8, seed), **{CACHE_ARGUMENT: restore([kept], link)})
    assert torch.equal(kept.tensor, before)
    assert kept.tensor.is_contiguous()


def test_states_say_their_size_and_know_their_ends(tiny_model, link) -> None:
    kept = keep(filled(tiny_model, ids(20)), 4, 16, link=link)
    assert (kept.num_tokens, kept.nbytes) == (12, 3 * 2 * 2 * 12 * 16 * 4)
    assert kept.tokens(2, 5).nbytes == kept.nbytes // 4
    with pytest.raises(ValueError, match="tokens 2 to 13 of 12"):
        kept.tokens(2, 13)


def test_a_move_copies_once_and_only_where_it_must(tiny_model, link) -> None:
    kept = keep(filled(tiny_model, ids(20)), link=link)
    assert link.num_transfers == 0
    assert move(kept, "device", link) is kept
    on_host = move(kept.tokens(0, 8), "host", link)
    assert (on_host.tier, link.num_transfers) == ("host", 1)
    assert torch.equal(on_host.tensor, kept.tensor[:, :, :, :8])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="states on a GPU need one")
def test_states_come_back_from_pinned_memory_to_a_gpu(tiny_model) -> None:
    link, tokens = make_link("cuda", FAST_BYTES_PER_S), ids(60).to("cuda")
    try:
        cache = filled(tiny_model.to("cuda"), tokens)
        kept = keep(cache, tier="host", link=link)
        assert kept.tensor.is_pinned()
        with torch.inference_mode():
            expected = tiny_model(tokens).logits[:, 40:]
            parts = [kept.tokens(0, 25), kept.tokens(25, 40)]
            found = tiny_model(tokens[:, 40:], **{CACHE_ARGUMENT: restore(parts, link)}).logits
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        assert link.num_transfers == 2
    finally:
        tiny_model.to("cpu")


def test_nothing_to_restore_is_an_empty_cache(link) -> None:
    empty = KVStates(tensor=torch.empty(2, 2, 1, 0, 4), tier="host")
    assert restore([], link).get_seq_length() == restore([empty], link).get_seq_length() == 0
    assert link.num_transfers == 0


def test_the_emulated_link_takes_as_long_as_its_bandwidth_says(tiny_model) -> None:
    link = EmulatedStateLink(2e6)
    kept = keep(filled(tiny_model, ids(50)), link=link)
    started_s = time.perf_counter()
    on_host = move(kept, "host", link)
    restore([on_host], link)
    assert time.perf_counter() - started_s >= 2 * kept.nbytes / 2e6
    link.close()
