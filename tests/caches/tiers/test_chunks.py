"""Chunks of a tier: room, order, and what may not leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.caches.tiers import CHUNK_ORDERS, Access, ChunkCache, Presence
from kvsim.errors import CapacityError


def stored(cache, keys, access=None):
    """Store chunks at once."""
    absent = cache.offer(keys, 0, access or Access())
    cache.written(absent)
    return absent


def test_what_is_written_or_read_does_not_leave():
    cache = ChunkCache(2, "lru")
    access = Access()
    assert cache.offer([1], 0, access) == [1]
    stored(cache, [2])
    assert stored(cache, [3]) == [3] and cache.presence(2) is Presence.ABSENT
    cache.written([1])
    cache.read([1], 0, Access())
    assert stored(cache, [4]) == [4] and cache.presence(1) is Presence.PRESENT
    assert cache.offer([5, 6], 0, Access()) is None
    cache.was_read([1])
    assert stored(cache, [5, 6]) == [5, 6] and cache.evicted == [2, 3, 1, 4]


def test_an_offer_is_refused_whole_and_keeps_what_it_names():
    cache = ChunkCache(3, "lru")
    stored(cache, [1, 2, 3])
    assert cache.offer([1, 2, 4, 5], 0, Access()) is None
    assert [cache.presence(key) for key in (1, 2, 3)] == [Presence.PRESENT] * 3
    assert cache.offer([1, 2, 4], 0, Access()) == [4] and cache.evicted == [3]


def test_a_prompt_s_tail_leaves_before_its_head():
    cache = ChunkCache(4, "lru")
    access = Access()
    stored(cache, [1, 2, 3], access)
    stored(cache, [9])
    cache.finished(access)
    stored(cache, [10, 11, 12])
    assert cache.evicted == [9, 3, 2]


def test_arc_keeps_what_was_reused_through_a_scan():
    def survivors(order):
        cache = ChunkCache(4, order)
        first, second = Access(), Access()
        stored(cache, [1, 2], first)
        cache.finished(first)
        cache.read([1, 2], 0, second)
        cache.was_read([1, 2])
        cache.finished(second)
        for key in range(100, 120):
            scan = Access()
            stored(cache, [key], scan)
            cache.finished(scan)
        return {key for key in (1, 2) if cache.presence(key) is Presence.PRESENT}

    assert survivors("arc") == {1, 2} and survivors("lru") == set()


def test_a_tier_without_room_for_a_chunk_is_refused():
    with pytest.raises(CapacityError, match="make it larger, or the chunk smaller"):
        ChunkCache(0, "lru")


@given(
    st.sampled_from(sorted(CHUNK_ORDERS)),
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from("owrfs"), st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True))),
)
def test_no_sequence_of_calls_overfills_a_tier_or_takes_what_is_in_use(order, capacity, calls):
    cache, access = ChunkCache(capacity, order), Access()
    writing, reading = [], []
    for call, keys in calls:
        if call == "o":
            writing += cache.offer(keys, 0, access) or []
        elif call == "w":
            cache.written(writing)
            writing.clear()
        elif call == "r" and all(cache.presence(key) is Presence.PRESENT for key in keys):
            cache.read(keys, 0, access)
            reading += keys
        elif call == "f":
            cache.was_read(reading)
            reading.clear()
        elif call == "s":
            cache.finished(access)
            access = Access()
        cache._check()
        assert all(cache.presence(key) is Presence.COMING for key in writing)
        assert all(cache.presence(key) is Presence.PRESENT for key in reading)
