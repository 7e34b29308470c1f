"""Prefix caches: what is known of them, what must never happen, and that three implementations agree."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.caches.prefix import EVICTIONS, PrefixCache, RadixCache, hash_blocks, make_eviction, replay
from kvsim.caches.prefix.cache import ADMISSIONS
from kvsim.caches.prefix.replay import chains, replay_radix
from kvsim.errors import PolicyError
from kvsim.traces.requests.base import Request, gather
from kvsim.traces.requests.contents import blocks_of
from kvsim.traces.requests.registry import open_requests
from tests.caches.plain_prefix import replay_plain


@st.composite
def traces(draw):
    """Return prompts as paths through a small tree: each goes on from a prefix of an earlier one."""
    prompts: list[tuple[int, ...]] = []
    fresh = 0
    for _ in range(draw(st.integers(1, 25))):
        base: tuple[int, ...] = ()
        if prompts and draw(st.booleans()):
            earlier = prompts[draw(st.integers(0, len(prompts) - 1))]
            base = earlier[: draw(st.integers(0, len(earlier)))]
        new = draw(st.integers(0 if base else 1, 5))
        prompts.append(base + tuple(range(fresh, fresh + new)))
        fresh += new
    return prompts


def arrays(prompts):
    requests = [Request(arrival_s=None, input_tokens=len(prompt), output_tokens=0, blocks=prompt) for prompt in prompts]
    return gather(requests, block_tokens=1, source="test")


@pytest.mark.parametrize("admission", ADMISSIONS)
@pytest.mark.parametrize("policy", EVICTIONS)
@settings(max_examples=60)
@given(prompts=traces(), budget=st.integers(1, 30), in_flight=st.integers(1, 3))
def test_the_compiled_replay_does_what_the_plain_cache_does(policy, admission, prompts, budget, in_flight) -> None:
    found = arrays(prompts)
    options = {"policy": policy, "budget_blocks": budget, "admission": admission, "in_flight": in_flight}
    for most_hits in (None, found.most_hits):
        compiled = replay(found.blocks, found.starts, found.parents, **options, most_hits=most_hits)
        plain = replay_plain(found.blocks, found.starts, **options, most_hits=most_hits)
        assert compiled.hits.tolist() == plain.hits.tolist()
        assert compiled.evictions.tolist() == plain.evictions.tolist()


@pytest.mark.parametrize("policy", ["lru", "fifo", "lfu"])
@settings(max_examples=100)
@given(prompts=traces(), budget=st.integers(1, 30))
def test_a_radix_tree_that_evicts_block_by_block_hits_what_the_block_index_hits(policy, prompts, budget) -> None:
    found = arrays(prompts)
    by_block = replay(found.blocks, found.starts, found.parents, policy=policy, budget_blocks=budget)
    tree = replay_radix(found.blocks, found.starts, policy=policy, budget_blocks=budget, evicts="block")
    assert tree.hits.tolist() == by_block.hits.tolist()
    assert tree.evictions.tolist() == by_block.evictions.tolist()


@settings(max_examples=100)
@given(prompts=traces(), budget=st.integers(1, 30))
def test_a_radix_tree_that_evicts_whole_nodes_stays_within_its_budget(prompts, budget) -> None:
    tree = RadixCache(budget, "lru")
    for prompt in prompts:
        tree.request(prompt)
        assert tree.size == sum(map(len, tree.runs())) <= budget


@pytest.mark.parametrize("policy", EVICTIONS)
@settings(max_examples=60)
@given(prompts=traces(), budget=st.integers(1, 30), in_flight=st.integers(1, 3))
def test_no_block_leaves_while_a_request_holds_it_or_another_follows_it(policy, prompts, budget, in_flight) -> None:
    found = arrays(prompts)
    cache = PrefixCache(budget, make_eviction(policy, budget), in_flight=in_flight)
    held: list[list[int]] = []
    for chain in chains(found.blocks, found.starts):
        done = cache.request(chain)
        held = [*held, list(chain[: done.num_held])][-in_flight:]
        assert len(cache) <= budget
        assert all(block in cache for block in held[-1]), "what the latest request holds is cached"
        assert len(set(done.slots)) == len(done.slots)
        assert all(slot < budget for slot in done.slots)
        for block in range(found.num_distinct):
            if block in cache:
                parent = int(found.parents[block])
                assert parent < 0 or parent in cache, "whatever is cached can be reached"
                assert cache.holders(block) <= in_flight
    cache.finish()
    assert all(cache.holders(block) == 0 for block in range(found.num_distinct) if block in cache)


@pytest.mark.parametrize("policy", EVICTIONS)
@settings(max_examples=60)
@given(prompts=traces(), budget=st.integers(1, 30))
def test_no_policy_beats_the_bound_and_none_beats_a_cache_that_holds_everything(policy, prompts, budget) -> None:
    found = arrays(prompts)
    args = found.blocks, found.starts, found.parents
    for most_hits in (None, found.most_hits):
        options = {"budget_blocks": budget, "most_hits": most_hits}
        hits = int(replay(*args, policy=policy, **options).hits.sum())
        bound = int(replay(*args, policy="belady", **options).hits.sum())
        everything = int(replay(*args, policy="lru", budget_blocks=None, most_hits=most_hits).hits.sum())
        assert hits <= bound <= everything
        unlimited = replay(*args, policy=policy, budget_blocks=None, most_hits=most_hits)
        assert int(unlimited.hits.sum()) == everything


@settings(max_examples=100)
@given(prompts=traces(), budget=st.integers(1, 12))
def test_the_bound_is_that_of_a_cache_without_the_prefix_rule(prompts, budget) -> None:
    """MIN with bypass, block by block, written down once more: nothing in it knows of prefixes."""
    found = arrays(prompts)
    stream = found.blocks.tolist()
    cached: set[int] = set()
    hits = 0

    def next_use(block: int, place: int) -> int:
        return stream.index(block, place) if block in stream[place:] else len(stream)

    for place, block in enumerate(stream):
        if block in cached:
            hits += 1
            continue
        cached.add(block)
        if len(cached) > budget:
            cached.remove(max(cached, key=lambda other: next_use(other, place + 1)))
    bound = replay(found.blocks, found.starts, found.parents, policy="belady", budget_blocks=budget)
    assert int(bound.hits.sum()) == hits


@pytest.mark.parametrize("index", ["plain", "compiled", "radix"])
def test_a_prompt_that_is_found_whole_computes_its_last_block_again(index) -> None:
    """vLLM's ``max_cache_hit_length = num_tokens - 1``: the last token is computed, and with it its block."""
    lengths = (48, 48, 50)
    requests = [Request(arrival_s=None, input_tokens=n, output_tokens=1, blocks=(1, 2, 3)) for n in lengths]
    found = gather(requests, block_tokens=16, source="test")
    options = {"policy": "lru", "budget_blocks": 30, "most_hits": found.most_hits}
    if index == "radix":
        done = replay_radix(found.blocks, found.starts, **options)
    elif index == "plain":
        done = replay_plain(found.blocks, found.starts, **options)
    else:
        done = replay(found.blocks, found.starts, found.parents, **options)
    assert done.hits.tolist() == [0, 2, 3]


def test_a_request_keeps_its_hits_when_it_makes_room_and_tails_leave_before_heads() -> None:
    cache = PrefixCache(4, make_eviction("lru", 4))
    cache.request([1, 2])
    cache.request([3, 4])
    done = cache.request([1, 2, 5])
    assert done.num_hits == 2
    assert done.evicted == (4,)


def test_a_request_larger_than_the_budget_keeps_its_first_blocks() -> None:
    cache = PrefixCache(2, make_eviction("lru", 2))
    assert cache.request([1, 2, 3]).num_held == 2
    assert cache.request([1, 2, 3]).num_hits == 2


def test_second_touch_lets_a_block_in_when_it_was_asked_for_before() -> None:
    cache = PrefixCache(4, make_eviction("lru", 4), admission="second-touch")
    assert [cache.request([1, 2]).num_held, cache.request([1, 2]).num_held] == [0, 2]
    assert cache.request([1, 2]).num_hits == 2


def test_blocks_are_named_by_all_before_them_and_by_the_extra_keys() -> None:
    names = hash_blocks(range(64), 16)
    assert len(names) == len(set(names)) == 4
    assert hash_blocks(range(63), 16) == names[:3]
    assert hash_blocks([99, *range(1, 64)], 16)[1:] != names[1:]
    assert hash_blocks(range(64), 16, ["a", "bc"]) != hash_blocks(range(64), 16, ["ab", "c"])
    assert not set(hash_blocks(range(64), 16, ["salt"])) & set(names)


def test_a_policy_that_does_not_exist_is_told_with_the_nearest_name() -> None:
    found = arrays([(1, 2)])
    with pytest.raises(PolicyError, match="did you mean 'lru'"):
        replay(found.blocks, found.starts, found.parents, policy="lur", budget_blocks=1)
    with pytest.raises(PolicyError, match="radix tree"):
        RadixCache(1, "arc")


def test_a_replay_of_a_gzipped_trace_gives_the_same_as_of_plain_text(tmp_path) -> None:
    rows = [{"timestamp": 0, "input_length": 700, "output_length": 1, "hash_ids": [4, 9]}] * 2
    text = "\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "a.jsonl").write_bytes(text)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    found = [blocks_of(open_requests(tmp_path / n)) for n in ("a.jsonl", "a.jsonl.gz")]
    hits = [replay(f.blocks, f.starts, f.parents, policy="lru", budget_blocks=None).hits for f in found]
    assert np.array_equal(hits[0], [0, 2])
    assert np.array_equal(hits[0], hits[1])
