"""The page table of a compiled run against the plain one, layer by layer, and its digest against zlib's."""

from __future__ import annotations

import zlib
from itertools import pairwise

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.kernels.step import layout
from kvsim.kernels.step.page_table import digest_of, is_sound
from kvsim.policies import Setting, make_policy
from kvsim.sim import SimulationInput
from kvsim.sim.fast_path import FastPath
from tests.accesses import DriftingSource, make_input, make_profile, make_replay

IDS = st.lists(st.integers(0, 2**32 - 1), max_size=20)


@settings(max_examples=200)
@given(first=IDS, second=IDS)
def test_the_digest_is_the_crc_32_of_the_ids(first: list[int], second: list[int]) -> None:
    digest = 0
    for pages in (np.array(first, dtype=np.int64), np.array(second, dtype=np.int64)):
        expected = zlib.crc32(pages.tobytes(), digest)
        digest = int(digest_of(pages, digest))
        assert digest == expected


def make_run(partition: str, prefetch: str) -> SimulationInput:
    """Return 24 steps of two sequences, in which pages are opened, evicted, prefetched and written back."""
    replay = make_replay(DriftingSource(num_steps=24, num_sequences=2, start_tokens=250, seed=6))
    layers = replay.grid.num_layers
    setting = Setting(
        grid=replay.grid,
        capacity_pages=int(0.6 * replay.grid.num_pages) // layers * layers,
        partition="per_layer" if partition == "per_layer" else "shared",
        prefetch_quota_pages=3,
        seed=0,
    )
    return make_input(replay, make_policy("lru", setting, {"prefetch": prefetch}), setting, make_profile())


@pytest.mark.parametrize("partition", ["shared", "per_layer"])
@pytest.mark.parametrize("prefetch", ["none", "next-step"])
def test_after_every_step_the_same_pages_own_slots_and_may_leave(partition: str, prefetch: str) -> None:
    compiled, plain = make_run(partition, prefetch), make_run(partition, prefetch)
    steps = FastPath(simpy.Environment(), compiled, lambda _: None, 64)
    residency = plain.make_residency()
    plain.start(residency)
    block = compiled.replay.block(0, everything=False)
    moved = 0
    for step in range(24):
        steps._decode(block, step + 1)
        for layer in range(plain.replay.grid.num_layers):
            reading = plain.replay.at(step, layer, everything=False)
            decision = residency.decide(
                step=step, layer=layer, selected=reading.selected, scores=reading.scores, num_pages=reading.num_pages
            )
            moved += decision.victims.size + decision.prefetches.size
        np.testing.assert_array_equal(steps._flags[:3], residency.page_table.flags)
        np.testing.assert_array_equal(steps._arrays[layout.FREE], residency.page_table.free)
        np.testing.assert_array_equal(steps._arrays[layout.NUM_PAGES], residency.page_table.num_pages)
    assert moved > 24


@pytest.mark.parametrize(
    ("victims", "prefetches", "expected"),
    [
        ([2, 3], [5], True),
        ([], [], True),
        ([4], [], False),  # not evictable
        ([2, 2], [], False),  # twice
        ([99], [], False),  # no page
        ([], [2], False),  # not prefetchable
        ([], [5, 5], False),  # twice
        ([], [5, 6, 7], False),  # more than the quota
        ([], [-1], False),  # no page
    ],
)
def test_a_plan_is_sound_where_it_keeps_to_the_protocol(
    victims: list[int], prefetches: list[int], expected: bool
) -> None:
    steps = FastPath(simpy.Environment(), make_run("shared", "none"), lambda _: None, 64)
    steps._flags[:] = False
    steps._flags[layout.EVICTABLE, [2, 3]] = True
    steps._flags[layout.PREFETCHABLE, [5, 6, 7]] = True
    steps._counts[layout.QUOTA] = 2
    plan = (np.array(pages, dtype=np.int64) for pages in (victims, prefetches))
    assert bool(is_sound(steps._arrays.address, *plan)) is expected


def test_kernels_know_each_array_by_a_place_of_its_own() -> None:
    places = [layout.COUNTS, layout.CLOCK, layout.RING, layout.TRANSFERS, layout.DONE, layout.WORKS, layout.TABLES]
    places += [layout.CARRIED_S, layout.TIMES, layout.ROWS, layout.FLAGS, layout.PAGES, layout.PLAN, layout.PAGES_NOW]
    places += [layout.NUM_PAGES, layout.FREE, layout.OPENED, layout.WAS_EVICTABLE, layout.READINGS, layout.OFFSETS]
    places += [layout.CONTEXT, layout.RULES, layout.LINKS, layout.READ_BITS, layout.LOST_BITS]
    assert places == list(range(layout.NUM_ARRAYS))
    assert all(left < right for left, right in pairwise([layout.SIZE, layout.TABLE, layout.NUM_COUNTS]))
