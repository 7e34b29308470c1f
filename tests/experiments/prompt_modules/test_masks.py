"""The masks are those of the formulae, entry by entry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kvsim.experiments.prompt_modules.schema.masks import causal_mask, module_mask, padding_mask, position_mask

SEEN, HIDDEN = 0.0, -math.inf


@pytest.mark.parametrize("num_tokens", [1, 2, 7])
def test_the_causal_mask_is_zero_where_j_is_at_most_i(num_tokens: int) -> None:
    mask = causal_mask(num_tokens)
    for i in range(num_tokens):
        for j in range(num_tokens):
            assert mask[i, j] == (SEEN if j <= i else HIDDEN)


@given(arrays(np.bool_, st.tuples(st.integers(1, 3), st.integers(1, 8))))
def test_the_padding_mask_is_zero_where_token_j_is_no_padding(is_padding) -> None:
    mask = padding_mask(is_padding)
    for sequence, j in np.ndindex(is_padding.shape):
        assert mask[sequence, 0, j] == (HIDDEN if is_padding[sequence, j] else SEEN)


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


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 4))
def test_masks_add_up_and_a_hidden_token_gets_no_weight(num_tokens: int, width: int, pads: int) -> None:
    is_padding = np.array([[False] * num_tokens + [True] * pads])
    size = num_tokens + pads
    mask = causal_mask(size) + padding_mask(is_padding)[0]
    rng = np.random.default_rng(width)
    scores = rng.normal(size=(size, width)) @ rng.normal(size=(width, size)) / math.sqrt(width) + mask
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    assert (weights[mask == HIDDEN] == 0).all()
    assert weights.sum(axis=1) == pytest.approx(1)
