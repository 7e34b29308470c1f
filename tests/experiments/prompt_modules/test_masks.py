"""The masks are those of the formulae, entry by entry."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.experiments.prompt_modules.schema.masks import causal_mask, module_mask, position_mask

SEEN, HIDDEN = 0.0, -math.inf


@pytest.mark.parametrize("num_tokens", [1, 2, 7])
def test_the_causal_mask_is_zero_where_j_is_at_most_i(num_tokens: int) -> None:
    mask = causal_mask(num_tokens)
    for i in range(num_tokens):
        for j in range(num_tokens):
            assert mask[i, j] == (SEEN if j <= i else HIDDEN)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_the_module_mask_is_the_causal_one_within_a_module_and_closed_between_modules(owners: list[int]) -> None:
    mask = module_mask(owners)
    for i, own in enumerate(owners):
        for j, other in enumerate(owners):
            assert mask[i, j] == (SEEN if j <= i and own == other else HIDDEN)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_the_position_mask_is_zero_where_the_seen_position_is_no_later(looking: list[int], seen: list[int]) -> None:
    mask = position_mask(looking, seen)
    for i, own in enumerate(looking):
        for j, other in enumerate(seen):
            assert mask[i, j] == (SEEN if other <= own else HIDDEN)
