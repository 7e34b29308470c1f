"""The accounting of a row cache: the hits of a plain replay, slots that never lie, and counts that add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.caches import CACHE_POLICIES, replay
from kvsim.caches.rows import RowCacheState, RowCounts, distinct

CALLS = st.lists(
    st.tuples(st.lists(st.integers(0, 11), min_size=1, max_size=9), st.lists(st.integers(0, 11), max_size=4)),
    min_size=1,
    max_size=12,
)


def rows_of(calls) -> np.ndarray:
    return np.concatenate([distinct(part)[0] for call in calls for part in call if part])


def make_books(policy: str, capacity: int, calls) -> RowCacheState:
    future = rows_of(calls) if policy == "belady" else None
    return RowCacheState(policy, capacity, num_rows=12, future=future)


@pytest.mark.parametrize("policy", CACHE_POLICIES)
@given(calls=CALLS, capacity=st.integers(1, 8))
@settings(max_examples=25)
def test_hits_are_those_of_a_replay_over_each_calls_distinct_rows(policy, calls, capacity) -> None:
    state = make_books(policy, capacity, calls)
    hits = 0
    for tokens, ahead in calls:
        hits += int(state.look_up(tokens).hits.sum())
        if ahead:
            before = state.counts.prefetched_rows
            num_ahead = distinct(ahead)[0].size
            fetched = state.fetch_ahead(ahead)
            assert state.counts.prefetched_rows - before == fetched.rows.size <= num_ahead
    assert state.counts.hit_rows == hits
    only = [(tokens, []) for tokens, _ in calls]
    alone = make_books(policy, capacity, only)
    for tokens, _ in only:
        alone.look_up(tokens)
    assert alone.counts.hit_rows == replay(rows_of(only), capacity, policy).hits


@pytest.mark.parametrize("policy", CACHE_POLICIES)
@given(calls=CALLS, capacity=st.integers(1, 8))
@settings(max_examples=25)
def test_a_slot_read_holds_what_was_last_written_there(policy, calls, capacity) -> None:
    """Carries the cache state's orders out on a list of rows, as the engine does on memory."""
    state = make_books(policy, capacity, calls)
    slots: list[int | None] = [None] * state.capacity_rows
    for tokens, ahead in calls:
        call = state.look_up(tokens)
        assert [slots[slot] for slot in call.slots[call.hits]] == call.rows[call.hits].tolist()
        assert call.rows[call.place_of].tolist() == tokens
        for row, home in zip(call.rows[~call.hits], call.homes[~call.hits], strict=True):
            if home >= 0:
                slots[home] = int(row)
        if ahead:
            fetch = state.fetch_ahead(ahead)
            for row, slot in zip(fetch.rows, fetch.slots, strict=True):
                slots[slot] = int(row)
    counts = state.counts
    assert counts.hit_rows + counts.missed_rows == counts.distinct_rows <= counts.tokens
    assert counts.used_prefetched_rows <= counts.prefetched_rows
    held = [row for row in slots if row is not None]
    resident = state.slots_of(np.arange(12))
    assert sorted(np.flatnonzero(resident >= 0).tolist()) == sorted(
        row for row in set(held) if slots[resident[row]] == row and resident[row] >= 0
    )


def test_more_distinct_rows_than_slots_pass_through() -> None:
    state = RowCacheState("lru", 2, num_rows=10)
    call = state.look_up([4, 5, 6, 4])
    assert call.hits.tolist() == [False, False, False]
    assert (call.homes >= 0).tolist() == [False, True, True]
    assert state.counts.most_missed_rows == 3


def test_a_row_that_came_ahead_is_used_once() -> None:
    state = RowCacheState("lru", 4, num_rows=10)
    state.fetch_ahead([1, 2, 3])
    state.look_up([1, 1, 2])
    state.look_up([1, 2])
    assert (state.counts.prefetched_rows, state.counts.used_prefetched_rows) == (3, 2)
    state.look_up([5, 6, 7, 8])  # 3 leaves unused
    state.look_up([3])
    assert state.counts.used_prefetched_rows == 2


def test_counts_of_two_episodes_add_up_but_for_the_most_of_one_call() -> None:
    total = RowCounts(tokens=3, most_missed_rows=5).plus(RowCounts(tokens=4, most_missed_rows=2))
    assert (total.tokens, total.most_missed_rows) == (7, 5)
