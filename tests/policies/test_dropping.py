"""Policies that drop: what leaves is gone, the budget holds from the first decision on, and each keeps what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import PolicyError, ScenarioError
from kvsim.policies import Plan, Policy, Residency, Setting, View, make_policy
from kvsim.policies.dropping.sink_window import SinkWindow
from kvsim.sim import Replay, simulate_decode
from tests.accesses import DriftingSource, make_input, make_profile, make_replay, make_setting
from tests.policies.deciding import decisions_of

DROPPING = ("sink-window", "h2o", "snapkv")
PINNED = 1


def kept(policy: Policy, setting: Setting, replay: Replay) -> list[np.ndarray]:
    """Return what each decision leaves of its layer, having checked that nothing is fetched and nothing comes back."""
    residency = Residency(policy, setting, pinned_first_pages=PINNED, pinned_last_pages=PINNED)
    start = residency.start(replay.num_pages(replay.context_tokens(0) - 1))
    assert start.size == int(replay.num_pages(replay.context_tokens(0) - 1).sum()) * replay.grid.num_layers
    share = setting.capacity_pages // (replay.grid.num_layers * replay.grid.num_sequences)
    gone: set[int] = set()
    selections = []
    for number, (_, decision) in enumerate(decisions_of(residency, policy, replay)):
        assert not decision.misses.size and not decision.prefetches.size
        assert not gone & set(decision.selected.tolist())
        layer = number % replay.grid.num_layers
        assert (replay.grid.layer_of(decision.selected) == layer).all()
        counts = np.bincount(decision.selected // (replay.grid.num_layers * replay.grid.pages_per_layer))
        assert counts.max() <= share
        gone |= set(decision.victims.tolist())
        selections.append(decision.selected)
        assert residency.num_free >= 0 or layer < replay.grid.num_layers - 1
    return selections


def slots(replay: Replay, per_layer: int) -> Setting:
    grid = replay.grid
    return make_setting(replay, per_layer * grid.num_layers * grid.num_sequences)


@pytest.mark.parametrize("name", DROPPING)
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), share=st.integers(3, 30), batch=st.integers(1, 2))
def test_what_left_never_comes_back_and_every_layer_keeps_its_share(
    name: str, seed: int, share: int, batch: int
) -> None:
    replay = make_replay(DriftingSource(num_steps=20, start_tokens=250, seed=seed, num_sequences=batch))
    setting = slots(replay, min(share, replay.grid.pages_per_layer))
    kept(make_policy(name, setting, {}), setting, replay)


def test_sink_window_keeps_the_first_page_and_the_latest() -> None:
    replay = make_replay(DriftingSource(num_steps=40, start_tokens=250))
    setting = slots(replay, 5)
    selections = kept(make_policy("sink-window", setting, {}), setting, replay)
    last = int(replay.num_pages(replay.context_tokens(39))[0]) - 1
    first = replay.grid.first_page(sequence=0, layer=2)
    assert (selections[-1] - first).tolist() == [0, last - 3, last - 2, last - 1, last]


def test_snapkv_keeps_the_pages_that_the_first_step_scores_best() -> None:
    replay = make_replay(DriftingSource(num_steps=4, start_tokens=250, seed=3))
    setting = slots(replay, 8)
    selections = kept(make_policy("snapkv", setting, {}), setting, replay)
    scores = replay.at(0, 0, everything=False).scores[0].astype(np.float64)
    total = scores.size
    middle = np.arange(PINNED, total - 1 - PINNED)
    best = middle[np.argsort(-scores[middle], kind="stable")[: 8 - 2 * PINNED - 1]]
    assert set(best) < set(selections[0].tolist())
    # What later steps score plays no part.
    assert set(best) < set(selections[-3].tolist())


def test_h2o_keeps_what_was_scored_high_before_and_is_low_now() -> None:
    replay = make_replay(DriftingSource(num_steps=40, start_tokens=250, seed=4))
    setting = slots(replay, 8)
    policy = make_policy("h2o", setting, {"recent_frac": 0.25})
    selections = kept(policy, setting, replay)
    total = np.zeros(replay.grid.pages_per_layer)
    present = set(range(int(replay.num_pages(replay.context_tokens(0))[0])))
    for step in range(40):  # the same rule, page by page
        reading = replay.at(step, 0, everything=False)
        num_pages = int(reading.num_pages[0])
        present |= {num_pages - 1}
        for page in present:
            total[page] += float(reading.scores[0, page])
        while len(present) > 8:
            may_leave = [p for p in present if PINNED <= p < num_pages - 1 - PINNED and p <= num_pages - 1 - 2]
            present.remove(min(may_leave, key=lambda page: (total[page], page)))
        assert sorted(present) == selections[3 * step].tolist()


@pytest.mark.parametrize("name", DROPPING)
def test_simulated_dropping_moves_nothing_and_loses_mass(name: str) -> None:
    replay = make_replay(DriftingSource(num_steps=20, start_tokens=400))
    setting = slots(replay, 8)
    given_input = make_input(replay, make_policy(name, setting, {}), setting, make_profile())
    rows = simulate_decode(given_input)
    assert not rows["misses"].any() and not rows["to_device_bytes"].any() and not rows["to_host_bytes"].any()
    assert not rows["stall_s"].any()
    assert (rows["selected"] == 8 * 3).all()
    assert (rows["mass_recall_frac"] < 0.9).all()
    full = replay.grid.pages_per_layer
    generous = slots(replay, full)
    whole = simulate_decode(make_input(replay, make_policy(name, generous, {}), generous, make_profile()))
    np.testing.assert_allclose(whole["mass_recall_frac"], 1.0)


class Fetches(SinkWindow):
    """Breaks the rule: it fetches what it dropped."""

    def decide(self, view: View) -> Plan:
        gone = np.flatnonzero(view.prefetchable)
        return Plan(victims=super().decide(view).victims, prefetches=gone[:1])


class Hoards(SinkWindow):
    """Breaks the rule: it drops nothing."""

    def decide(self, view: View) -> Plan:
        return Plan()


@pytest.mark.parametrize(("broken", "word"), [(Fetches, "fetch none"), (Hoards, "its share of the budget is 5")])
def test_a_policy_that_breaks_the_rules_of_dropping_is_refused(broken: type[SinkWindow], word: str) -> None:
    replay = make_replay(DriftingSource())
    setting = slots(replay, 5)
    with pytest.raises(PolicyError, match=word):
        kept(broken(setting), setting, replay)


def test_an_impossible_share_of_recent_pages_is_refused() -> None:
    with pytest.raises(ScenarioError, match="recent_frac"):
        make_policy("h2o", slots(make_replay(DriftingSource()), 5), {"recent_frac": 1.0})
