"""Pages by rank, against sorting: who leaves, and the keys that say so."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.kernels.pages import predicted_use, rank
from kvsim.policies.evictors import random_pages

NUM_POOLS, PAGES_PER_LAYER, NUM_SEQUENCES = 2, 4, 2
NUM_PAGES = NUM_POOLS * PAGES_PER_LAYER * NUM_SEQUENCES
MASKS = st.lists(st.booleans(), min_size=NUM_PAGES, max_size=NUM_PAGES).map(np.array)
KEYS = st.lists(st.integers(-3, 3), min_size=NUM_PAGES, max_size=NUM_PAGES).map(np.array)


@settings(max_examples=100)
@given(keys=KEYS, evictable=MASKS, spared=MASKS, count=st.integers(0, 10), pool=st.integers(0, 1), shares=st.booleans())
def test_the_pages_of_the_least_keys_leave_ties_to_the_smallest_id(
    keys: np.ndarray, evictable: np.ndarray, spared: np.ndarray, count: int, pool: int, shares: bool
) -> None:
    num_pools = 1 if shares else NUM_POOLS
    pool = 0 if shares else pool
    victims = rank.least(keys, pool, num_pools, PAGES_PER_LAYER, count, evictable, spared)
    of_pool = [page for page in range(NUM_PAGES) if shares or (page // PAGES_PER_LAYER) % NUM_POOLS == pool]
    may_leave = [page for page in of_pool if evictable[page] and not spared[page]]
    assert victims.tolist() == sorted(may_leave, key=lambda page: (keys[page], page))[:count]


@settings(max_examples=40)
@given(scores=st.lists(st.integers(0, 3), min_size=PAGES_PER_LAYER, max_size=PAGES_PER_LAYER))
def test_importance_is_the_place_in_the_order_of_scores(scores: list[int]) -> None:
    keys = np.full(NUM_PAGES, 9, dtype=np.int64)
    rank.rank_layer(keys, np.array([scores, scores[::-1]], dtype=np.float64), PAGES_PER_LAYER, NUM_PAGES // 2)
    for sequence, own in enumerate((scores, scores[::-1])):
        worst_first = sorted(range(PAGES_PER_LAYER), key=lambda page: (own[page], page))
        first = PAGES_PER_LAYER + sequence * NUM_PAGES // 2
        assert [int(keys[first + page]) for page in worst_first] == list(range(1 - PAGES_PER_LAYER, 1))
    assert (keys[:PAGES_PER_LAYER] == 9).all()  # the other layer's


def test_readings_begin_anew_with_a_miss() -> None:
    readings = np.array([5, 2, 0, 7])
    rank.lfu_touch(readings, np.array([0, 1, 2]), np.array([1]))
    assert readings.tolist() == [6, 1, 1, 7]


def test_sums_of_scores_decay_by_layer_and_begin_anew_with_a_miss() -> None:
    sums = np.ones(NUM_PAGES)
    scores = np.arange(8.0).reshape(2, 4)
    rank.recency_touch(sums, scores, 0.5, 0, NUM_PAGES // 2, PAGES_PER_LAYER, np.array([1, 10]), np.array([10]))
    assert sums[:4].tolist() == [0.5, 0.5 + 1.0, 0.5, 0.5]
    assert sums[8:12].tolist() == [0.5, 0.5, 0.0 + 6.0, 0.5]
    assert (sums[4:8] == 1).all() and (sums[12:] == 1).all()


def test_lots_are_drawn_as_the_plain_policy_draws_them() -> None:
    assert [int(rank.mix(np.uint64(value))) for value in (0, 1, 2**64 - 1)] == [
        random_pages.mix(value) for value in (0, 1, 2**64 - 1)
    ]


@settings(max_examples=100)
@given(
    use=st.lists(st.integers(0, 4), min_size=NUM_PAGES, max_size=NUM_PAGES), prefetchable=MASKS, quota=st.integers(1, 9)
)
def test_the_likeliest_pages_of_a_layer_are_wanted_ties_to_the_smallest_id(
    use: list[int], prefetchable: np.ndarray, quota: int
) -> None:
    uses = np.array(use, dtype=np.float64)
    sizes = NUM_SEQUENCES, PAGES_PER_LAYER
    wanted = predicted_use.likely_pages(uses, prefetchable, 1.0, quota, PAGES_PER_LAYER, NUM_PAGES // 2, sizes)
    of_layer = [page for page in range(NUM_PAGES) if (page // PAGES_PER_LAYER) % NUM_POOLS == 1]
    likely = [page for page in of_layer if prefetchable[page] and uses[page] > 1]
    assert wanted.tolist() == sorted(likely, key=lambda page: (-uses[page], page))[:quota]


def test_confidence_moves_by_what_was_used_and_wasted_within_its_bounds() -> None:
    assert predicted_use.adapted(0.5, 0.01, 0.5, 3, 1) == 0.5 + 0.01 * (1 * 0.5 - 3 * 0.5)
    assert predicted_use.adapted(0.99, 0.1, 0.5, 0, 9) == 1.0
    assert predicted_use.adapted(0.06, 0.1, 0.5, 9, 0) == 0.05
