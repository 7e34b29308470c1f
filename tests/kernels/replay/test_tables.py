"""What the replay kernels are built of: rings, slots, dense ids; each against a list or a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.kernels.replay.contract import NONE, NOT_ADMITTED
from kvsim.kernels.replay.densify import densify
from kvsim.kernels.replay.rings import first_of, join_last, leave, make_empty
from kvsim.kernels.replay.slots import assign_slots

NUM_PLACES, NUM_RINGS = 6, 2


def members(links: np.ndarray, ring: int) -> list[int]:
    """Return the places of a ring in order, and check that they lead back as they lead on."""
    places, place = [], int(links[2 * ring])
    while place != ring:
        assert links[2 * int(links[2 * place + 1])] == place
        places.append(place)
        place = int(links[2 * place])
    return places


@settings(max_examples=100)
@given(moves=st.lists(st.tuples(st.integers(0, NUM_PLACES - 1), st.integers(0, NUM_RINGS)), max_size=60))
def test_rings_are_lists_from_whose_middle_places_leave(moves: list[tuple[int, int]]) -> None:
    links = np.zeros(2 * (NUM_PLACES + NUM_RINGS), dtype=np.uint32)
    for ring in range(NUM_RINGS):
        make_empty(links, np.uint64(NUM_PLACES + ring))
    lists: list[list[int]] = [[] for _ in range(NUM_RINGS)]
    for place, to in moves:
        for each in lists:
            if place in each:
                each.remove(place)
                leave(links, np.uint64(place))
        if to < NUM_RINGS:
            lists[to].append(place)
            join_last(links, np.uint64(NUM_PLACES + to), np.uint64(place))
        for ring, expected in enumerate(lists):
            assert members(links, NUM_PLACES + ring) == expected
            assert first_of(links, np.uint64(NUM_PLACES + ring)) == (expected[0] if expected else NUM_PLACES + ring)


def test_a_newcomer_takes_its_victims_slot_or_the_next_unused_one() -> None:
    ids = np.array([3, 1, 3, 2, 4], dtype=np.uint32)
    hits = np.array([False, False, True, False, False])
    victims = np.array([NONE, NONE, NONE, 1, NOT_ADMITTED], dtype=np.uint32)
    slot_of, used, slots = np.full(5, -1), np.zeros(1, dtype=np.int64), np.empty(5, dtype=np.int64)
    assign_slots(slot_of, used, ids, hits, victims, slots)
    assert slots.tolist() == [0, 1, 0, 1, -1]
    assert slot_of.tolist() == [-1, -1, 1, 0, -1]
    assert used[0] == 2


@settings(max_examples=60)
@given(keys=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
def test_dense_ids_count_first_appearances_until_the_table_is_half_full(keys: list[int]) -> None:
    places = 16
    table, names = np.zeros(places, dtype=np.int64), np.zeros(places, dtype=np.uint32)
    key_of, count, ids = (
        np.zeros(places // 2, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
        np.zeros(40, dtype=np.uint32),
    )
    stop = densify(np.array(keys, dtype=np.int64), 0, table, names, key_of, count, ids)
    seen: dict[int, int] = {}
    for place, key in enumerate(keys):
        if key not in seen and len(seen) == places // 2:
            assert stop == place
            break
        assert ids[place] == seen.setdefault(key, len(seen))
    else:
        assert stop == len(keys)
    assert key_of[: len(seen)].tolist() == list(seen)
    assert count[0] == len(seen)
