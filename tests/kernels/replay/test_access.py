"""The replay kernels over bare arrays: each does what its plain version does, also where a log is compacted often."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.kernels.replay import arc, belady, fifo, lfu, lru, random, s3_fifo, sieve
from kvsim.kernels.replay.contract import NONE, NOT_ADMITTED
from tests.caches import plain, plain_queues

NUM_IDS = 15
IDS = st.lists(st.integers(0, NUM_IDS - 1), min_size=1, max_size=200)
KERNELS: dict[str, tuple[ModuleType, Any, dict[str, Any]]] = {
    "fifo": (fifo, plain.Fifo, {}),
    "lru": (lru, plain.Lru, {}),
    "lru of a small log": (lru, plain.Lru, {"log_entries": 8}),
    "second touch": (lru, plain.SecondTouch, {"admits_all": False}),
    "lfu": (lfu, plain.Lfu, {}),
    "random": (random, plain.Random, {"seed": 0}),
    "arc": (arc, plain_queues.Arc, {}),
    "s3-fifo": (s3_fifo, plain_queues.S3Fifo, {}),
    "sieve": (sieve, plain_queues.Sieve, {}),
    "sieve of a small log": (sieve, plain_queues.Sieve, {"log_entries": 8}),
    "belady": (belady, plain.Belady, {}),
}


def made(name: str, ids: np.ndarray, capacity: int) -> tuple[ModuleType, Any, Any]:
    """Return a kernel, its empty state and its plain version."""
    kernel, plain_class, arguments = KERNELS[name]
    if name == "belady":
        state = kernel.make_state(capacity, future=ids, num_ids=NUM_IDS)
        return kernel, state, plain_class(capacity, future=ids.tolist())
    return kernel, kernel.make_state(capacity, **arguments), plain_class(capacity)


def accessed(kernel: ModuleType, state: Any, where: np.ndarray, ids: np.ndarray) -> list[tuple[bool, int]]:
    hits, victims = np.zeros(ids.size, dtype=np.bool_), np.full(ids.size, NONE)
    num_hits = kernel.access(where, state, ids, hits, victims)
    assert num_hits == np.count_nonzero(hits)
    return list(zip(hits.tolist(), victims.tolist(), strict=True))


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=60)
@given(ids=IDS, capacity=st.integers(1, 12))
def test_every_access_is_that_of_the_plain_policy(name: str, ids: list[int], capacity: int) -> None:
    keys = np.array(ids, dtype=np.uint32)
    kernel, state, reference = made(name, keys, capacity)
    expected = []
    for key in ids:
        hit, is_in, victim = reference.access(key)
        expected.append((hit, int(NONE if victim is None and is_in else NOT_ADMITTED if victim is None else victim)))
    assert accessed(kernel, state, np.full(NUM_IDS, NONE), keys) == expected


@pytest.mark.parametrize("name", KERNELS)
@settings(max_examples=20)
@given(ids=IDS, capacity=st.integers(1, 12), cut=st.integers(0, 200))
def test_counting_alone_gives_the_same_count_and_pieces_give_the_same_accesses(
    name: str, ids: list[int], capacity: int, cut: int
) -> None:
    keys = np.array(ids, dtype=np.uint32)
    kernel, state, _ = made(name, keys, capacity)
    whole = accessed(kernel, state, np.full(NUM_IDS, NONE), keys)
    _, counted, _ = made(name, keys, capacity)
    assert kernel.access(np.full(NUM_IDS, NONE), counted, keys, None, None) == sum(hit for hit, _ in whole)
    _, cut_state, _ = made(name, keys, capacity)
    where = np.full(NUM_IDS, NONE)
    parts = [accessed(kernel, cut_state, where, part) for part in np.split(keys, [min(cut, keys.size)])]
    assert [access for part in parts for access in part] == whole


@pytest.mark.parametrize("capacity", [1, 2, 3, 5])
def test_sieve_is_the_plain_one_wherever_its_hand_stands_when_its_log_is_full(capacity: int) -> None:
    keys = np.random.default_rng(capacity).integers(0, 2 * capacity + 1, 4_000).astype(np.uint32)
    reference = plain_queues.Sieve(capacity)
    expected = [
        (hit, int(NONE if victim is None else victim)) for hit, _, victim in map(reference.access, keys.tolist())
    ]
    assert accessed(sieve, sieve.make_state(capacity, log_entries=8), np.full(NUM_IDS, NONE), keys) == expected


@settings(max_examples=60)
@given(ids=IDS)
def test_next_uses_are_the_places_of_the_next_equal_ids(ids: list[int]) -> None:
    uses = belady.next_uses(np.array(ids, dtype=np.uint32), NUM_IDS).tolist()
    for place, key in enumerate(ids):
        assert uses[place] == (ids.index(key, place + 1) if key in ids[place + 1 :] else NONE)
