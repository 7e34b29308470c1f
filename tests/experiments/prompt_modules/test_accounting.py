"""The accounting of stored units: what a cache of whole units does, prompt by prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.caches import CACHE_POLICIES, replay
from kvsim.experiments.prompt_modules.accounting import ModuleStoreState

prompts = st.lists(st.lists(st.integers(0, 5), unique=True, max_size=4), max_size=20)


@given(prompts, st.integers(1, 6), st.sampled_from(sorted(CACHE_POLICIES)))
def test_hits_are_those_of_the_cache_and_what_is_stored_fits(given, budget, policy) -> None:
    flat = [unit for units in given for unit in units]
    state = ModuleStoreState(policy, budget_units=budget, num_units=6, future=flat)
    hits = 0
    for units in given:
        before = set(state.stored)
        served = state.serve(units)
        hits += served.num_hits
        assert len(state.stored) <= budget
        entered = {unit for unit, let_in in zip(served.units, served.is_let_in, strict=True) if let_in}
        assert state.stored <= before | entered
        assert len(state.stored) == len(before) - served.num_evicted + sum(
            let_in and not hit for let_in, hit in zip(served.is_let_in, served.is_hit, strict=True)
        )
    assert hits == replay(flat, budget, policy).hits


def test_room_for_all_hits_everything_but_the_first_time() -> None:
    state = ModuleStoreState("lru", budget_units=3, num_units=3)
    assert state.serve([0, 1, 2]).is_hit == (False, False, False)
    assert state.serve([2, 0]).is_hit == (True, True)


@pytest.mark.parametrize("policy", ["lru", "fifo"])
def test_a_unit_that_leaves_for_another_of_its_own_prompt_is_told(policy: str) -> None:
    state = ModuleStoreState(policy, budget_units=1, num_units=3)
    served = state.serve([0, 1, 2])
    assert served.victims == (None, 0, 1)
    assert state.stored == {2}
