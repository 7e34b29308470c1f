"""Turns of a conversation on one cache: what each policy does in them, what ends, and what is refused."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from transformers import DynamicCache  # noqa: E402

from kvsim.engine.model.forward import CACHE_ARGUMENT  # noqa: E402
from kvsim.engine.paged.decode import decode  # noqa: E402
from kvsim.engine.paged.prefill import prefill  # noqa: E402
from kvsim.errors import KvsimError  # noqa: E402
from tests.engine.decoding import FAST_BYTES_PER_S, FULL  # noqa: E402
from tests.engine.test_paged_cache import assert_untouched, cache_for, concrete_input, generate  # noqa: E402

COUNTS = ("selected", "hits", "misses", "prefetched", "used", "evicted", "to_device_bytes", "to_host_bytes")
PROMPT_TOKENS = 110


@pytest.fixture
def first():
    return torch.randint(8, 256, (2, PROMPT_TOKENS), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def second():
    return torch.randint(8, 256, (2, 27), generator=torch.Generator().manual_seed(4))


def dense(model):
    return DynamicCache(config=model.config)


@pytest.mark.parametrize(
    ("policy", "pages"),
    [("resident", 1), ("stream", 10), ("lru", 7), ("lru", 9), ("attention", 7), ("sieve", 8)],
)
def test_every_policy_reads_in_a_second_turn_what_the_default_cache_reads(tiny_model, first, second, policy, pages):
    ids = generate(tiny_model, first, max_new_tokens=20)
    whole = torch.cat((ids, second), 1)
    expected = generate(tiny_model, whole, max_new_tokens=30)
    with cache_for(tiny_model, FULL, f"run.policies=['{policy}']", policy=policy, pages=pages) as cache:
        assert torch.equal(generate(tiny_model, first, cache, max_new_tokens=20), ids)
        assert torch.equal(generate(tiny_model, whole, cache, max_new_tokens=30), expected)
    report = cache.report()
    assert report.hits + report.misses == report.selected > 0
    assert (report.prompt_tokens, report.num_steps) == (PROMPT_TOKENS + 28, 19 + 29)
    assert_untouched(tiny_model)


@pytest.mark.parametrize("policy", ["lru", "attention"])
def test_a_second_turn_counts_what_a_run_from_its_whole_prompt_counts(tiny_model, first, second, policy):
    selector = "selector.k_pages=2"
    with cache_for(tiny_model, selector, policy=policy, pages=7) as cache:
        ids = torch.cat((generate(tiny_model, first, cache, max_new_tokens=20), second), 1)
        before = cache.report()
        generated = generate(tiny_model, ids, cache, max_new_tokens=30)
        after = cache.report()
        keys = cache.session._tokens[:, :, : ids.shape[1]].clone()
    given = concrete_input(tiny_model, selector, policy=policy, pages=7)
    snapshot = prefill(tiny_model, ids, room_tokens=30)
    snapshot.tokens[:, :, : ids.shape[1]] = keys  # those of the tokens that pages gave, which no prefill gives
    forced = generated[:, ids.shape[1] : -1]
    object.__setattr__(given, "num_steps", forced.shape[1])
    result = decode(tiny_model, snapshot, given, bandwidth_bytes_per_s=FAST_BYTES_PER_S, forced_tokens=forced)
    assert torch.equal(result.tokens, generated[:, ids.shape[1] + 1 :])
    assert after.misses > before.misses > 0
    for name in COUNTS:
        assert getattr(after, name) - getattr(before, name) == result.counts[name].sum(), name


def test_the_tokens_held_are_neither_computed_nor_filled_again(tiny_model, first, second):
    fed = []
    handle = tiny_model.model.embed_tokens.register_forward_hook(lambda _, arguments, __: fed.append(arguments[0]))
    try:
        with cache_for(tiny_model, FULL) as cache:
            ids = torch.cat((generate(tiny_model, first, cache, max_new_tokens=5), second), 1)
            fed.clear()
            generate(tiny_model, ids, cache, max_new_tokens=5)
    finally:
        handle.remove()
    assert [part.shape[1] for part in fed] == [28, 1, 1, 1, 1]


def test_a_turn_may_come_in_chunks_and_a_copy_goes_on_by_itself(tiny_model, first, second):
    ids = generate(tiny_model, first, max_new_tokens=20)
    others = [torch.cat((ids, part), 1) for part in (second, second.flip(1))]
    expected = [generate(tiny_model, whole, max_new_tokens=20) for whole in others]
    with cache_for(tiny_model, FULL, pages=7) as cache:
        generate(tiny_model, first, cache, max_new_tokens=20)
        with copy.deepcopy(cache) as copied:
            for one, whole, tokens in zip((copied, cache), others, expected, strict=True):
                assert torch.equal(generate(tiny_model, whole, one, max_new_tokens=20, prefill_chunk_size=16), tokens)
        assert copied.report().num_steps == cache.report().num_steps == 19 + 19


@pytest.mark.parametrize("is_chunked", [False, True])
def test_ids_that_do_not_continue_the_cache_are_one_line(tiny_model, first, second, is_chunked):
    options = {"prefill_chunk_size": 16} if is_chunked else {}
    with cache_for(tiny_model, FULL) as cache:
        ids = torch.cat((generate(tiny_model, first, cache, max_new_tokens=20), second), 1)
        other = ids.clone()
        other[1, 33] += 1
        message = "token 33 of sequence 1 is another; pass the same text"
        with pytest.raises(KvsimError, match=message) as caught:
            generate(tiny_model, other, cache, **options)
        assert "\n" not in str(caught.value)
        if not is_chunked:  # the cache is as it was before
            expected = generate(tiny_model, ids, max_new_tokens=9)
            assert torch.equal(generate(tiny_model, ids, cache, max_new_tokens=9), expected)


@pytest.mark.parametrize("tokens", [129, 40])
def test_ids_without_a_new_token_are_one_line(tiny_model, first, tokens):
    with cache_for(tiny_model, FULL) as cache:
        ids = generate(tiny_model, first, cache, max_new_tokens=20)
        with pytest.raises(KvsimError, match=f"the ids are {tokens} tokens, this PagedCache holds 129"):
            generate(tiny_model, ids[:, :tokens], cache)


def test_a_policy_that_drops_refuses_a_second_turn(tiny_model, first, second):
    with cache_for(tiny_model, "run.policies=['sink-window']", policy="sink-window", pages=4) as cache:
        ids = torch.cat((generate(tiny_model, first, cache, max_new_tokens=20), second), 1)
        with pytest.raises(KvsimError, match="drops pages for good"):
            generate(tiny_model, ids, cache)


def test_sampling_draws_the_tokens_of_the_default_cache(tiny_model, first, second):
    def turns(cache):
        torch.manual_seed(12)
        options = {CACHE_ARGUMENT: cache, "do_sample": True, "temperature": 2.0, "top_k": 0, "eos_token_id": None}
        ids = tiny_model.generate(first, max_new_tokens=20, **options)
        return tiny_model.generate(torch.cat((ids, second), 1), max_new_tokens=20, **options)

    expected = turns(dense(tiny_model))
    assert not torch.equal(expected[:, :130], generate(tiny_model, first, max_new_tokens=20))  # or nothing was drawn
    with cache_for(tiny_model, FULL, pages=7) as cache:
        assert torch.equal(turns(cache), expected)
    assert cache.report().misses > 0


def ending(model, first):
    """Return options of a generation whose second sequence ends after 6 of 30 tokens, and what it gives."""
    plain = generate(model, first, max_new_tokens=30)
    end = int(plain[1, 115])
    assert end not in plain[0, 110:] and end not in plain[1, 110:115]
    options = {"eos_token_id": end, "pad_token_id": 0, "max_new_tokens": 30, "do_sample": False}
    return end, options, model.generate(first, **options)


@pytest.mark.parametrize(("policy", "pages"), [("resident", 1), ("stream", 8), ("lru", 6), ("attention", 6)])
def test_a_sequence_that_has_ended_reads_no_more_pages(tiny_model, first, policy, pages):
    end, options, expected = ending(tiny_model, first)
    selector = FULL if policy != "attention" else "selector.k_pages=4"
    reports = []
    for end_token_ids in ((), (end,)):
        options_of_cache = {"max_tokens": PROMPT_TOKENS + 30, "end_token_ids": end_token_ids}
        with cache_for(tiny_model, selector, policy=policy, pages=pages, **options_of_cache) as cache:
            found = tiny_model.generate(first, **{CACHE_ARGUMENT: cache}, **options)
            if selector == FULL:
                assert torch.equal(found, expected)
            reports.append(cache.report())
    whole, ended = reports
    # Steps 7 to 29 are the first sequence's alone: it reads as much as before.
    read = [4 if policy == "attention" else -(-(PROMPT_TOKENS + step) // 16) for step in range(7, 30)]
    if policy != "attention":
        assert whole.selected - ended.selected == 3 * sum(read)
    assert ended.selected < 0.8 * whole.selected
    assert ended.hits + ended.misses == ended.selected
    if policy != "resident":
        assert ended.to_device_bytes < whole.to_device_bytes


def test_a_turn_after_one_ended_hides_its_padding(tiny_model, first, second):
    end, options, ids = ending(tiny_model, first)
    whole = torch.cat((ids, second), 1)
    mask = torch.ones_like(whole)
    mask[1, 116 : ids.shape[1]] = 0
    expected = tiny_model.generate(first, **{CACHE_ARGUMENT: (cache := dense(tiny_model))}, **options)
    expected = generate(tiny_model, whole, cache, attention_mask=mask, max_new_tokens=20)
    with cache_for(tiny_model, FULL, pages=7, end_token_ids=(end,)) as cache:
        tiny_model.generate(first, **{CACHE_ARGUMENT: cache}, **options)
        with pytest.raises(KvsimError, match=r"sequence 1 ended before token 116, .* attention_mask that hides it"):
            generate(tiny_model, whole, cache)
    with cache_for(tiny_model, FULL, pages=7, end_token_ids=(end,)) as cache:
        tiny_model.generate(first, **{CACHE_ARGUMENT: cache}, **options)
        assert torch.equal(generate(tiny_model, whole, cache, attention_mask=mask, max_new_tokens=20), expected)
    assert cache.report().misses > 0


def test_a_turn_of_one_token_goes_on_after_one_that_ended(tiny_model, first):
    end, options, ids = ending(tiny_model, first)
    mask = torch.ones_like(ids)
    mask[1, 116:-1] = 0
    tiny_model.generate(first, **{CACHE_ARGUMENT: (cache := dense(tiny_model))}, **options)
    expected = generate(tiny_model, ids, cache, attention_mask=mask, max_new_tokens=20)
    with cache_for(tiny_model, FULL, pages=7, end_token_ids=(end,)) as cache:
        tiny_model.generate(first, **{CACHE_ARGUMENT: cache}, **options)
        assert torch.equal(generate(tiny_model, ids, cache, attention_mask=mask, max_new_tokens=20), expected)


@pytest.mark.parametrize("options", [{"prompt_lookup_num_tokens": 3}, {"assistant_model": None}])
def test_assisted_generation_is_refused_in_one_line(tiny_model, first, options):
    options = {name: tiny_model if name == "assistant_model" else value for name, value in options.items()}
    with cache_for(tiny_model, FULL, batch=1) as cache, pytest.raises((KvsimError, ValueError), match="crop") as caught:
        generate(tiny_model, first[:1], cache, max_new_tokens=5, **options)
    assert "\n" not in str(caught.value)
    assert_untouched(tiny_model)
