"""Prefill in chunks is priced by one rule, whichever of the two tables of a profile times a call."""

from __future__ import annotations

import numpy as np
import pytest

from kvsim.profile.prefill import PrefillCost, prefill_cost
from kvsim.profile.profile import Profile, load_profile
from kvsim.profile.tables import CostTable
from kvsim.scenario.shipped import find_profile
from tests.accesses import make_profile


def table(amounts: tuple[float, ...], cached: tuple[float, ...], time_s: float) -> CostTable:
    """Return a table in which a call takes `time_s`, and a microsecond a token."""
    rows = tuple(tuple(time_s + 1e-6 * amount for _ in cached) for amount in amounts)
    return CostTable(amount="tokens", amounts=amounts, columns_are="cached_tokens", columns=cached, time_s=rows)


CALLS = table((1.0, 448.0), (0.0, 416.0), 1.0)
CHUNKS = table((24.0, 512.0), (0.0, 4672.0), 2.0)


def profile(**costs: CostTable) -> Profile:
    caches = {"forward@1": costs["calls"]} if "calls" in costs else {}
    return make_profile().model_copy(update={"prefill": costs.get("chunks"), "caches": caches})


def cost(**costs: CostTable) -> PrefillCost:
    found = prefill_cost(profile(**costs), chunk_tokens=512)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("new_tokens", "cached_tokens", "seconds"),
    [
        (10, 0, 1.0),  # fewer than the table of chunks begins with
        (10, 4000, 1.0),
        (448, 416, 1.0),  # where calls were timed
        (449, 0, 2.0),  # where they were not
        (100, 417, 2.0),
        (512 + 300, 0, 4.0),  # a chunk after 512 tokens is beyond the calls, however short
        (512 + 10, 0, 3.0),
        (0, 100, 0.0),
    ],
)
def test_each_call_takes_the_table_that_was_timed_for_it(new_tokens: int, cached_tokens: int, seconds: float) -> None:
    both = cost(calls=CALLS, chunks=CHUNKS)
    assert both.time_s(new_tokens, cached_tokens) == pytest.approx(seconds + 1e-6 * new_tokens)


def test_prompts_are_priced_together_as_one_by_one_and_the_shipped_profile_chunk_by_chunk() -> None:
    shipped = load_profile(find_profile("cpu-smollm2-135m"))
    found = prefill_cost(shipped, 512)
    assert found is not None
    new, cached = np.array([10, 700, 1500, 0]), np.array([0, 300, 6000, 64])
    times_s, is_outside = found.times_s(new, cached)

    def at_s(amount: int, cached_tokens: int) -> float:
        return shipped.prefill.at_s(amount, cached_tokens=cached_tokens)

    assert times_s.tolist() == pytest.approx(
        [
            shipped.caches["forward@1"].at_s(10, cached_tokens=0),
            at_s(512, 300) + at_s(188, 812),
            at_s(512, 6000) + at_s(512, 6512) + at_s(476, 7024),
            0.0,
        ]
    )
    assert is_outside.tolist() == [False, False, True, False]
    one_by_one = [found.time_s(*pair) for pair in zip(new.tolist(), cached.tolist(), strict=True)]
    assert one_by_one == times_s.tolist()
    assert (new.tolist(), cached.tolist()) == ([10, 700, 1500, 0], [0, 300, 6000, 64])


def test_a_call_outside_its_table_is_known_for_one() -> None:
    new, cached = np.array([10, 10, 512, 512, 1000]), np.array([0, 417, 4672, 4673, 4000])
    _, is_outside = cost(calls=CALLS, chunks=CHUNKS).times_s(new, cached)
    assert is_outside.tolist() == [False, True, False, True, False]
    _, is_outside = cost(chunks=CHUNKS).times_s(np.array([10]), 0)  # its first value stands for fewer tokens
    assert is_outside.tolist() == [True]


def test_one_table_stands_for_both_and_none_for_nothing() -> None:
    assert cost(calls=CALLS).time_s(1000, 0) == pytest.approx(2 + 1e-3)
    assert cost(chunks=CHUNKS).time_s(1000, 0) == pytest.approx(4 + 1e-3)
    assert prefill_cost(profile(), 512) is None
