"""Every cache policy against its plain reference, and the curve against replays."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.caches import CACHE_POLICIES, Cache, find_cache_policy, miss_curve, replay
from kvsim.caches.keys import KeyTable
from kvsim.errors import CapacityError, PolicyError, ScenarioError
from tests.caches import plain, plain_queues

KEYS = st.lists(st.integers(0, 24), min_size=1, max_size=150)
SKEWED = st.lists(st.integers(0, 400).map(lambda draw: draw % 7 if draw % 3 else draw), min_size=1, max_size=300)
PLAIN: dict[str, Any] = {
    "fifo": plain.Fifo,
    "lru": plain.Lru,
    "lfu": plain.Lfu,
    "sieve": plain_queues.Sieve,
    "arc": plain_queues.Arc,
    "s3-fifo": plain_queues.S3Fifo,
    "random": plain.Random,
    "second-touch": plain.SecondTouch,
    "belady": plain.Belady,
}
POLICIES = pytest.mark.parametrize("name", CACHE_POLICIES)


def make_cache(name: str, capacity: int, keys: list[int], **more: Any) -> Cache:
    return Cache(name, capacity, future=keys if CACHE_POLICIES[name].kind == "oracle" else None, **more)


def plain_outcomes(name: str, capacity: int, keys: list[int]) -> list[tuple[bool, bool, int | None]]:
    extra = {"future": keys} if CACHE_POLICIES[name].kind == "oracle" else {}
    cache = PLAIN[name](capacity, **extra)
    return [tuple(cache.access(key)) for key in keys]


def outcomes(cache: Cache, keys: list[int]) -> list[tuple[bool, bool, int | None]]:
    done = cache.access(keys)
    victims = [int(key) if leaves else None for key, leaves in zip(done.victims, done.evicts, strict=True)]
    return list(zip(done.hits.tolist(), (done.slots >= 0).tolist(), victims, strict=True))


@POLICIES
@settings(max_examples=120)
@given(keys=st.one_of(KEYS, SKEWED), capacity=st.integers(1, 40))
def test_hits_and_victims_are_those_of_the_plain_policy(name: str, keys: list[int], capacity: int) -> None:
    wanted = plain_outcomes(name, capacity, keys)
    assert outcomes(make_cache(name, capacity, keys), keys) == wanted
    assert replay(keys, capacity, name).hits == sum(hit for hit, _, _ in wanted)


@POLICIES
@settings(max_examples=40)
@given(keys=SKEWED, capacity=st.integers(1, 12), cuts=st.lists(st.integers(0, 300), max_size=4))
def test_a_trace_in_pieces_does_what_it_does_at_once(
    name: str, keys: list[int], capacity: int, cuts: list[int]
) -> None:
    whole, pieces = make_cache(name, capacity, keys), make_cache(name, capacity, keys)
    edges = [0, *sorted(min(cut, len(keys)) for cut in cuts), len(keys)]
    found = [outcome for a, b in itertools.pairwise(edges) for outcome in outcomes(pieces, keys[a:b])]
    assert found == outcomes(whole, keys)
    assert whole.slots_of(keys).tolist() == pieces.slots_of(keys).tolist()


@POLICIES
@settings(max_examples=40)
@given(keys=SKEWED, capacity=st.integers(1, 12))
def test_values_kept_by_slot_are_always_those_of_their_keys(name: str, keys: list[int], capacity: int) -> None:
    cache = make_cache(name, capacity, keys)
    done = cache.access(keys)
    rows: dict[int, int] = {}
    for key, hit, slot in zip(keys, done.hits, done.slots, strict=True):
        assert -1 <= slot < capacity
        if slot >= 0 and not hit:
            rows[int(slot)] = key
        assert not hit or rows[int(slot)] == key
    assert all(rows[int(slot)] == key for key, slot in zip(keys, cache.slots_of(keys), strict=True) if slot >= 0)
    assert len(cache) == len(rows)


@POLICIES
def test_long_traces_agree_with_the_plain_policy_too(name: str) -> None:
    generator = np.random.default_rng(5)
    keys = (generator.zipf(1.3, 4_000) % 500).tolist()
    assert outcomes(make_cache(name, 60, keys), keys) == plain_outcomes(name, 60, keys)


@settings(max_examples=60)
@given(keys=SKEWED, capacity=st.integers(1, 12))
def test_no_policy_that_lets_every_key_in_hits_more_often_than_belady(keys: list[int], capacity: int) -> None:
    bound = replay(keys, capacity, "belady").hits
    assert all(
        replay(keys, capacity, name).hits <= bound
        for name, policy in CACHE_POLICIES.items()
        if policy.kind == "eviction"
    )


def test_belady_sees_far_past_one_word_of_its_bitmap() -> None:
    generator = np.random.default_rng(6)
    keys = generator.integers(0, 3_000, 300_000)
    cache = Cache("belady", 1_000, future=keys)
    hits = sum(int(cache.access(part).hits.sum()) for part in np.array_split(keys, 7))
    assert hits == replay(keys, 1_000, "belady").hits
    assert hits > replay(keys, 1_000, "lru").hits


@settings(max_examples=60)
@given(keys=st.one_of(KEYS, SKEWED))
def test_the_curve_is_lru_replayed_at_every_capacity(keys: list[int]) -> None:
    curve = miss_curve(keys)
    assert curve.misses[0] == len(keys)
    assert curve.misses[-1] == curve.num_keys == len(set(keys))
    for capacity in range(1, curve.num_keys + 1):
        assert curve.misses[capacity] == replay(keys, capacity, "lru").misses


def test_the_curve_of_a_trace_longer_than_its_tree_is_exact() -> None:
    keys = np.random.default_rng(7).zipf(1.2, 30_000) % 900
    curve = miss_curve(keys)
    for capacity in (1, 2, 10, 100, 500, 899):
        assert curve.misses[capacity] == replay(keys, capacity, "lru").misses


def test_the_knee_of_a_working_set_is_the_working_set() -> None:
    curve = miss_curve([*list(range(10)) * 50, *range(1_000, 1_200)])
    assert curve.knee == 10
    assert curve.budget_for(0.5) == 10
    assert curve.budget_for(0.0) is None


@settings(max_examples=60)
@given(parts=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60), max_size=4))
def test_keys_get_ids_in_order_of_first_appearance(parts: list[list[int]]) -> None:
    table = KeyTable()
    seen: dict[int, int] = {}
    for part in parts:
        ids = table.ids_of(np.array(part, dtype=np.int64))
        assert ids.tolist() == [seen.setdefault(key, len(seen)) for key in part]
    assert table.keys.tolist() == list(seen)


def test_a_key_table_grows_past_its_first_size() -> None:
    keys = np.random.default_rng(8).integers(-(2**62), 2**62, 50_000)
    table = KeyTable()
    ids = table.ids_of(np.concatenate((keys, keys)))
    assert (ids[:50_000] == ids[50_000:]).all()
    assert (table.keys[ids[:50_000]] == keys).all()


def test_dense_keys_need_no_table_and_give_the_same() -> None:
    keys = (np.random.default_rng(9).zipf(1.3, 2_000) % 100).tolist()
    assert outcomes(Cache("arc", 20, num_keys=100), keys) == outcomes(Cache("arc", 20), keys)


def test_faults_say_what_would_be_right() -> None:
    with pytest.raises(CapacityError, match="a cache of 0 keys: from 1"):
        Cache("lru", 0)
    with pytest.raises(ScenarioError, match=r"unknown cache policy 'lruu'.*lru"):
        find_cache_policy("lruu")
    with pytest.raises(ScenarioError, match="needs the whole trace"):
        Cache("belady", 3)
    with pytest.raises(ScenarioError, match="may not see the future"):
        Cache("lru", 3, future=[1])
    with pytest.raises(PolicyError, match="`future` has another key"):
        Cache("belady", 3, future=[1, 2]).access([2])
    with pytest.raises(PolicyError, match="takes 0 to 3"):
        Cache("lru", 3, num_keys=4).access([4])
    with pytest.raises(ScenarioError, match="flat array of integers"):
        replay([0.5], 1, "lru")
    with pytest.raises(ScenarioError, match="without accesses"):
        miss_curve([])
