"""The scores of pages against what they bound and against plain sums over tokens."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from kvsim.engine.capture.scores import PageSummaries, head_products, mean_softmax, quest_bounds, sum_by  # noqa: E402
from kvsim.engine.model.weighting import Weighting  # noqa: E402
from kvsim.engine.paged.summaries import make_summaries  # noqa: E402
from kvsim.types import PageGrid, pages_of  # noqa: E402

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 8
WEIGHTING = Weighting(scaling=HEAD_DIM**-0.5)
QUARTER = Weighting(scaling=0.25)


def random_layer(seed: int, tokens: int):
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(HEADS, HEAD_DIM, generator=generator)
    return query, torch.randn(KV_HEADS, tokens, HEAD_DIM, generator=generator)


def summaries_of(keys, page_tokens: int, max_tokens: int = 200) -> PageSummaries:
    summaries = PageSummaries(
        page_tokens=page_tokens,
        max_tokens=max_tokens,
        num_kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        device=torch.device("cpu"),
    )
    summaries.extend(keys)
    return summaries


def test_each_query_head_meets_the_keys_of_its_own_group():
    query, keys = random_layer(1, 5)
    products = head_products(query, keys)
    for head in range(HEADS):
        expected = keys[head // (HEADS // KV_HEADS)] @ query[head]
        assert torch.allclose(products[head], expected, atol=1e-6)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), tokens=st.integers(1, 150), page_tokens=st.sampled_from([16, 32, 64]))
def test_no_key_of_a_page_scores_above_the_quest_bound(seed, tokens, page_tokens):
    query, keys = random_layer(seed, tokens)
    pages = keys.split(page_tokens, dim=1)
    minimum, maximum = (torch.stack([getattr(page, name)(1) for page in pages], 1) for name in ("amin", "amax"))
    bounds = quest_bounds(query, minimum, maximum)
    best = torch.stack([head_products(query, page).amax(1) for page in pages], 1)
    assert bounds.shape == (HEADS, len(pages))
    assert (bounds >= best - 1e-5).all()


def test_quest_bound_of_a_page_of_one_key_is_its_score():
    query, keys = random_layer(3, 4)
    assert torch.allclose(quest_bounds(query, keys, keys), head_products(query, keys), atol=1e-6)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), first=st.integers(0, 80), steps=st.integers(1, 70))
def test_summaries_grown_token_by_token_equal_those_made_at_once(seed, first, steps):
    query, keys = random_layer(seed, first + steps)
    grown = summaries_of(keys[:, :first], 32)
    for tokens in range(first + 1, first + steps + 1):
        grown.extend(keys[:, :tokens])
    whole = summaries_of(keys, 32)
    assert torch.equal(grown.quest(query, QUARTER), whole.quest(query, QUARTER))
    assert torch.allclose(grown.mean(query, QUARTER), whole.mean(query, QUARTER), atol=1e-6)
    assert torch.allclose(grown.cuboid_mean(query, QUARTER), whole.cuboid_mean(query, QUARTER), atol=1e-6)


def test_cuboid_mean_is_the_bound_of_a_box_at_mean_distance_from_the_centre():
    query, keys = random_layer(5, 48)
    logits = []
    for head in range(HEADS):
        group = keys[head // (HEADS // KV_HEADS)]
        scores = []
        for page in group.split(16):
            centre = (page.max(0).values + page.min(0).values) / 2
            reach = (page - centre).abs().mean(0)
            scores.append(
                sum(max(q * (c + r), q * (c - r)) for q, c, r in zip(query[head], centre, reach, strict=True))
            )
        logits.append(torch.stack(scores) * 0.25)
    expected = torch.stack(logits).softmax(-1).mean(0)
    found = summaries_of(keys, 16).cuboid_mean(query, QUARTER)
    torch.testing.assert_close(found, expected)


def test_cuboid_mean_of_keys_at_two_ends_is_the_quest_bound():
    """Where every key lies on a face of the bounding box in every dimension, the mean distance is the whole one."""
    query, ends = random_layer(6, 2)
    keys = ends[:, torch.arange(32) % 2]
    summaries = summaries_of(keys, 16)
    torch.testing.assert_close(summaries.cuboid_mean(query, QUARTER), summaries.quest(query, QUARTER))


def test_mean_estimate_is_the_softmax_of_the_pages_mean_keys_the_open_page_over_its_own_tokens():
    query, keys = random_layer(5, 40)
    means = torch.stack([keys[:, :32].mean(1), keys[:, 32:].mean(1)], 1)
    expected = QUARTER.logits(head_products(query, means)).softmax(-1).mean(0)
    assert torch.allclose(summaries_of(keys, 32).mean(query, QUARTER), expected, atol=1e-6)


def test_a_softmax_is_taken_for_each_head_before_the_mean():
    logits = torch.tensor([[10.0, 0.0], [0.0, 10.0]])
    assert torch.allclose(mean_softmax(logits), torch.tensor([0.5, 0.5]))
    assert mean_softmax(torch.tensor([[9.0, 0.0], [0.0, 1.0]]))[0].item() == pytest.approx(
        (1 / (1 + 2.718281828**-9) + 1 / (1 + 2.718281828)) / 2, abs=1e-6
    )


def test_sums_keep_all_mass_and_the_last_holds_the_rest():
    mass = torch.arange(1.0, 36.0)
    sums = sum_by(16, mass)
    assert sums.tolist() == [sum(range(1, 17)), sum(range(17, 33)), 33 + 34 + 35]


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), prompt=st.integers(1, 100), steps=st.integers(0, 40))
def test_a_capture_sees_what_the_engines_selector_sees(seed, prompt, steps):
    query, keys = random_layer(seed, prompt + steps)
    num_pages = pages_of(prompt + steps, 32)
    grid = PageGrid(num_sequences=1, num_layers=1, pages_per_layer=num_pages)
    token_rows = keys[:, :prompt].transpose(0, 1)[None, None]  # [1, 1, tokens, num_kv_heads, head_dim]
    ours = summaries_of(keys, 32)
    for channel, expected in (
        ("estimate:quest", ours.quest(query, WEIGHTING)),
        ("estimate:mean", ours.mean(query, WEIGHTING)),
    ):
        theirs = make_summaries(channel, grid, token_rows.transpose(0, 1), page_tokens=32, device="cpu")
        for token in range(prompt, prompt + steps):
            theirs.update(0, token // 32, keys[None, :, token : token + 1])
        scores = theirs.scores(0, query[None, :, None], num_pages, WEIGHTING)[0]
        assert torch.allclose(scores.float(), expected, rtol=2**-9, atol=1e-6)
