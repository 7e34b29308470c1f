"""Stack distances against counting distinct ids by hand, whether or not time was renumbered."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.kernels.replay.stack_distance import count_distances


def by_hand(ids: list[int], num_ids: int) -> list[int]:
    """Return how many accesses have each distance: the distinct ids since, the id's own included; 0 for a first one."""
    counts = [0] * (num_ids + 1)
    for place, key in enumerate(ids):
        before = [other for other in range(place) if ids[other] == key]
        counts[len(set(ids[before[-1] : place])) if before else 0] += 1
    return counts


@settings(max_examples=100)
@given(ids=st.lists(st.integers(0, 6), min_size=1, max_size=120), entries=st.sampled_from([8, 16, 256]))
def test_distances_are_those_counted_by_hand(ids: list[int], entries: int) -> None:
    """Eight times for seven ids: time is used up and renumbered every second access."""
    assert count_distances(np.array(ids, dtype=np.uint32), 7, entries).tolist() == by_hand(ids, 7)
