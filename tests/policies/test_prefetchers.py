"""What every prefetcher must keep to, and the pattern that each should find, and one that it should not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kvsim.errors import ScenarioError
from kvsim.policies import PREFETCHERS, Decision, Residency, Setting, make_policy
from kvsim.policies.future import Oracle
from kvsim.policies.selectors import TopK
from kvsim.sim import Replay
from kvsim.sim.replay import ReplayFuture
from kvsim.traces.access.base import NEXT_LAYER
from kvsim.types import IntArray, Scores
from tests.policies.deciding import decisions_of

K_PAGES, SINK_PAGES, RECENT_PAGES = 3, 1, 1
PAGE_TOKENS = 16
REAL = [name for name in PREFETCHERS if not PREFETCHERS[name].is_oracle]


@dataclass
class PlantedSource:
    """Scores and foretold scores as they are given, ``[steps, layers, pages]``; contexts do not grow a page."""

    planted: NDArray[np.float64]
    foretold: NDArray[np.float64]
    num_sequences: int = 1
    channels: tuple[str, ...] = ("mass", NEXT_LAYER)

    @property
    def num_steps(self) -> int:
        return self.planted.shape[0]

    @property
    def num_layers(self) -> int:
        return self.planted.shape[1]

    def context_tokens(self, step: int) -> IntArray:
        # One page grows by a token a step and never fills: no page opens.
        return np.full(self.num_sequences, (self.planted.shape[2] - 1) * PAGE_TOKENS + 1 + min(step, 14))

    def scores(self, step: int, layer: int, channel: str, page_tokens: int) -> Scores:
        rows = self.foretold if channel == NEXT_LAYER else self.planted
        return np.repeat(rows[step, layer][None].astype(np.float16), self.num_sequences, axis=0)

    def mass(self, step: int, layer: int, page_tokens: int) -> Scores:
        return self.scores(step, layer, "mass", page_tokens)

    def selection(self, step: int, layer: int, page_tokens: int) -> None:
        return None


def plant(chosen: NDArray[np.int64], num_pages: int, seed: int = 0) -> NDArray[np.float64]:
    """Return scores that select `chosen`, ``[steps, layers, K_PAGES]``, above noise on every page."""
    scores = np.random.default_rng(seed).uniform(0.001, 0.01, (*chosen.shape[:2], num_pages))
    np.put_along_axis(scores, chosen, 0.2 + 0.01 * np.arange(chosen.shape[2]), axis=2)
    return scores


def at_random(num_steps: int, num_layers: int, num_pages: int, seed: int = 0) -> NDArray[np.int64]:
    """Return selections of the middle with no pattern."""
    rng = np.random.default_rng(seed)
    middle = np.arange(SINK_PAGES, num_pages - 1 - RECENT_PAGES)
    picks = [[rng.choice(middle, K_PAGES, replace=False) for _ in range(num_layers)] for _ in range(num_steps)]
    return np.array(picks, dtype=np.int64)


def run(
    source: PlantedSource, prefetch: str, budget_pages: int, quota: int = 16, eviction: str = "lru", **arguments: Any
) -> list[Decision]:
    """Return every decision of a run; `budget_pages` are slots a layer."""
    selector = TopK(k_pages=K_PAGES, sink_pages=SINK_PAGES, recent_pages=RECENT_PAGES)
    replay = Replay(source, selector, channel="mass", page_tokens=PAGE_TOKENS, num_steps=source.num_steps)
    setting = Setting(
        grid=replay.grid,
        capacity_pages=budget_pages * replay.grid.num_layers * replay.grid.num_sequences,
        partition="shared",
        prefetch_quota_pages=quota,
        seed=0,
    )
    policy = make_policy(eviction, setting, {"prefetch": prefetch, **arguments})
    if isinstance(policy, Oracle):
        policy.foresee(ReplayFuture(replay, everything=False))
    residency = Residency(policy, setting, pinned_first_pages=SINK_PAGES, pinned_last_pages=RECENT_PAGES)
    residency.start(replay.num_pages(replay.context_tokens(0) - 1))
    return [decision for _, decision in decisions_of(residency, policy, replay)]


def misses(decisions: list[Decision], num_layers: int, behind_steps: int, layers: slice = slice(None)) -> int:
    """Return the misses after the first steps, of some layers."""
    counts = np.array([decision.misses.size for decision in decisions]).reshape(-1, num_layers)
    return int(counts[behind_steps:, layers].sum())


THRASHING = SINK_PAGES + RECENT_PAGES + 1 + 2
"""Slots a layer, one fewer than a selection holds: whatever was read is gone before it is read again."""
ROOMY = THRASHING + 5


@pytest.mark.parametrize("prefetch", PREFETCHERS)
@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), budget=st.integers(THRASHING, 14), quota=st.integers(0, 6), batch=st.integers(1, 2))
def test_only_pages_that_may_come_are_prefetched_and_no_more_than_the_quota(
    prefetch: str, seed: int, budget: int, quota: int, batch: int
) -> None:
    source = PlantedSource(
        plant(at_random(6, 3, 16, seed), 16, seed), plant(at_random(6, 3, 16, seed + 1), 16), num_sequences=batch
    )
    eviction = "belady" if PREFETCHERS[prefetch].is_oracle else "lru"
    # Residency refuses a prefetch that is on the device, selected, open or named twice, and one beyond the quota.
    decisions = run(source, prefetch, budget, quota, eviction)
    assert all(decision.prefetches.size <= quota for decision in decisions)


@pytest.mark.parametrize("prefetch", REAL)
@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 7))
def test_what_comes_later_changes_no_decision_before(prefetch: str, seed: int, cut: int) -> None:
    first = PlantedSource(plant(at_random(8, 3, 16, seed), 16, seed), plant(at_random(8, 3, 16, seed), 16, seed + 1))
    planted, foretold = first.planted.copy(), first.foretold.copy()
    planted[cut:] = plant(at_random(8 - cut, 3, 16, seed + 2), 16)
    foretold[cut:] = plant(at_random(8 - cut, 3, 16, seed + 3), 16)
    one, other = (
        run(source, prefetch, ROOMY) for source in (first, replace(first, planted=planted, foretold=foretold))
    )
    for left, right in zip(one[: 3 * cut], other[: 3 * cut], strict=True):
        np.testing.assert_array_equal(left.prefetches, right.prefetches)
        np.testing.assert_array_equal(left.victims, right.victims)


def test_previous_step_finds_what_stays_and_nothing_in_noise() -> None:
    steady = np.repeat(at_random(1, 4, 24), 12, axis=0)
    source = PlantedSource(plant(steady, 24), plant(steady, 24))
    assert misses(run(source, "none", THRASHING), 4, 2) == 10 * 4 * K_PAGES
    assert misses(run(source, "previous-step", THRASHING), 4, 2) == 0
    noise = PlantedSource(plant(at_random(12, 4, 24), 24), plant(steady, 24))
    alone, helped = (misses(run(noise, name, THRASHING), 4, 2) for name in ("none", "previous-step"))
    assert helped > 0.7 * alone


def test_window_union_finds_what_comes_back_after_three_steps_and_previous_step_does_not() -> None:
    turns = np.tile(at_random(3, 4, 40, seed=1), (6, 1, 1))
    source = PlantedSource(plant(turns, 40), plant(turns, 40))
    found = misses(run(source, "window-union", 10, window_steps=3), 4, 4)
    assert found == 0
    assert misses(run(source, "window-union", 10, window_steps=1), 4, 4) > 50
    assert misses(run(source, "previous-step", 10), 4, 4) > 50


@pytest.mark.parametrize("prefetch", ["speculation", "corrected", "learned"])
def test_speculation_finds_what_is_predicted_and_nothing_by_a_wrong_prediction(prefetch: str) -> None:
    chosen = at_random(14, 4, 24, seed=2)
    told = PlantedSource(plant(chosen, 24), plant(chosen, 24, seed=1))
    # Nothing predicts the first layer; what it brings may now and then take a place of the others.
    assert misses(run(told, prefetch, ROOMY), 4, 2, slice(1, None)) <= 2
    misled = replace(told, foretold=plant(at_random(14, 4, 24, seed=3), 24))
    alone = misses(run(misled, "none", ROOMY), 4, 2, slice(1, None))
    assert misses(run(misled, prefetch, ROOMY), 4, 2, slice(1, None)) > 0.5 * alone


def test_correction_finds_pages_that_are_always_told_too_low_and_plain_speculation_does_not() -> None:
    chosen = at_random(24, 4, 24, seed=4)
    bias = np.exp(np.random.default_rng(5).normal(0, 3, (1, 4, 24)))
    true = plant(chosen, 24)
    biased = true * bias
    source = PlantedSource(true, biased / biased.max())
    plain, corrected = (misses(run(source, name, ROOMY), 4, 6, slice(1, None)) for name in ("speculation", "corrected"))
    assert plain > 50
    assert corrected < 0.1 * plain


def test_attention_finds_pages_that_are_often_near_the_bar_and_previous_step_does_not() -> None:
    # Two sets of equal scores take turns: the one that was not read stands just below the bar.
    sets = at_random(1, 4, 24, seed=6)[0]
    others = np.array([[page for page in range(2, 20) if page not in row][:K_PAGES] for row in sets])
    scores = np.full((16, 4, 24), 0.001)
    for step in range(16):
        first, second = (sets, others) if step % 2 else (others, sets)
        np.put_along_axis(scores[step], second, 0.19, axis=1)
        np.put_along_axis(scores[step], first, 0.2, axis=1)
    source = PlantedSource(scores, np.zeros_like(scores))
    budget = SINK_PAGES + RECENT_PAGES + 1 + K_PAGES + 1
    found, previous = (misses(run(source, name, budget), 4, 4) for name in ("attention", "previous-step"))
    assert found < 0.5 * previous


def test_learned_turns_a_sign_round_that_means_the_opposite() -> None:
    # What is foretold lowest is read: the weights at the start are wrong, and only learning can mend them.
    chosen = at_random(120, 4, 24, seed=7)
    source = PlantedSource(plant(chosen, 24), plant(chosen, 24).max() + 0.001 - plant(chosen, 24))
    fixed = misses(run(source, "learned", ROOMY, learning_rate=0.0), 4, 80, slice(1, None))
    learned = misses(run(source, "learned", ROOMY, learning_rate=1.0), 4, 80, slice(1, None))
    assert learned < 0.5 * fixed


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), budget=st.integers(THRASHING + 1, 12))
def test_oracle_prefetch_wastes_nothing_and_no_prefetcher_misses_less(seed: int, budget: int) -> None:
    source = PlantedSource(plant(at_random(10, 3, 20, seed), 20), plant(at_random(10, 3, 20, seed), 20, 1))
    decisions = run(source, "oracle-prefetch", budget, eviction="belady")
    unread: set[int] = set()
    for decision in decisions:
        unread -= set(decision.selected.tolist())
        assert not unread & set(decision.victims.tolist()), "a prefetched page left before it was read"
        unread |= set(decision.prefetches.tolist())
    assert not unread
    bound = misses(decisions, 3, 0)
    for prefetch in REAL:
        for eviction in ("lru", "belady"):
            assert bound <= misses(run(source, prefetch, budget, eviction=eviction), 3, 0)


@pytest.mark.parametrize(
    ("prefetch", "arguments"),
    [
        ("previous-step", {"reach_frac": 0.0}),
        ("previous-step", {"ahead_layers": 3}),
        ("window-union", {"window_steps": 0}),
        ("corrected", {"decay_frac": 1.0}),
        ("attention", {"target_precision_frac": 1.0}),
        ("learned", {"threshold": 0.0}),
        ("learned", {"predicted_weights": [1.0]}),
    ],
)
def test_an_impossible_argument_is_refused_by_name(prefetch: str, arguments: dict[str, Any]) -> None:
    source = PlantedSource(plant(at_random(2, 3, 16), 16), plant(at_random(2, 3, 16), 16))
    with pytest.raises(ScenarioError, match=next(iter(arguments))):
        run(source, prefetch, ROOMY, **arguments)
