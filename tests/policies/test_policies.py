"""What every policy must keep to, entry by entry of POLICIES, and the bound that none may beat."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvsim.errors import PolicyError, ScenarioError
from kvsim.policies import POLICIES, Decision, Paged, Plan, Policy, Residency, Setting, View, find_policy, make_policy
from kvsim.policies.future import is_oracle
from kvsim.sim import Replay
from kvsim.sim.replay import ReplayFuture
from kvsim.types import PageGrid
from tests.accesses import DriftingSource, OwnPolicy, make_replay, make_setting
from tests.policies.deciding import decisions_of

PINNED = 1


def drive(policy: Policy, setting: Setting, replay: Replay) -> list[Decision]:
    """Run `policy` over every step and layer, checking after each that pages are conserved."""
    if is_oracle(policy):
        policy.foresee(ReplayFuture(replay, policy.attends == "everything"))
    residency = Residency(policy, setting, pinned_first_pages=PINNED, pinned_last_pages=PINNED)
    residency.start(replay.num_pages(replay.context_tokens(0) - 1))
    decisions = []
    expected = residency.resident.copy()
    for reading, decision in decisions_of(residency, policy, replay):
        after = residency.resident
        if policy.attends != "resident":
            np.testing.assert_array_equal(decision.selected, reading.selected)
        assert after[decision.selected].all(), "a selected page owns no slot"
        assert residency.num_free + int(after.sum()) == setting.capacity_pages
        came = np.union1d(np.union1d(decision.misses, decision.prefetches), decision.opened)
        expected[came] = True
        expected[decision.victims] = False
        np.testing.assert_array_equal(after, expected)
        decisions.append(decision)
    return decisions


def setting_for(name: str, replay: Replay, frac: float, *, quota: int = 4, partition: str = "shared") -> Setting:
    kind = find_policy(name)
    grid = replay.grid
    if kind.holds == "everything":
        capacity = grid.num_pages
    elif kind.attends == "everything":
        capacity = int(grid.num_pages * max(frac, 0.75))
    else:
        capacity = int(grid.num_pages * frac)
    return Setting(
        grid=grid,
        capacity_pages=capacity // grid.num_layers * grid.num_layers,
        partition="per_layer" if partition == "per_layer" else "shared",
        prefetch_quota_pages=quota,
        seed=0,
    )


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), frac=st.floats(0.35, 1.0), batch=st.integers(1, 2), quota=st.integers(0, 6))
def test_pages_are_conserved_and_selected_pages_resident(
    name: str, seed: int, frac: float, batch: int, quota: int
) -> None:
    replay = make_replay(DriftingSource(num_steps=8, start_tokens=250, seed=seed, num_sequences=batch))
    setting = setting_for(name, replay, frac, quota=quota)
    drive(make_policy(name, setting, {}), setting, replay)


@pytest.mark.parametrize("name", [name for name in POLICIES if find_policy(name).attends == "selection"])
def test_pools_of_a_layer_each_are_kept_apart(name: str) -> None:
    replay = make_replay(DriftingSource())
    setting = setting_for(name, replay, 0.4, partition="per_layer")
    num_layers = replay.grid.num_layers
    for number, decision in enumerate(drive(make_policy(name, setting, {}), setting, replay)):
        layer = number % num_layers
        moved = np.concatenate((decision.victims, decision.prefetches, decision.misses))
        # a layer that predicts the next one prefetches for that, into slots of its pool
        own = [layer, (layer + 1) % num_layers] if name == "predictive" else [layer]
        assert np.isin(replay.grid.layer_of(moved), own).all()
        came = replay.grid.layer_of(np.concatenate((decision.misses, decision.prefetches)))
        assert (np.bincount(came, minlength=num_layers) <= setting.capacity_pages // num_layers).all()


@pytest.mark.parametrize("name", POLICIES)
def test_fresh_instance_decides_the_same(name: str) -> None:
    replay = make_replay(DriftingSource(seed=3))
    setting = setting_for(name, replay, 0.4)
    first, second = (drive(make_policy(name, setting, {}), setting, replay) for _ in range(2))
    for left, right in zip(first, second, strict=True):
        np.testing.assert_array_equal(left.victims, right.victims)
        np.testing.assert_array_equal(left.prefetches, right.prefetches)


@pytest.mark.parametrize("name", POLICIES)
def test_nothing_is_moved_when_everything_fits(name: str) -> None:
    replay = make_replay(DriftingSource())
    setting = make_setting(replay)
    decisions = drive(make_policy(name, setting, {}), setting, replay)
    assert all(not decision.victims.size and not decision.misses.size for decision in decisions)


class Belady(OwnPolicy):
    """MIN over sets: evict what is read furthest in the future. Handed the future, so for tests of a bound only."""

    def __init__(self, replay: Replay) -> None:
        self._uses: dict[int, list[int]] = {}
        for now in range(replay.num_steps * replay.grid.num_layers):
            step, layer = divmod(now, replay.grid.num_layers)
            for page in replay.at(step, layer, everything=False).selected.tolist():
                self._uses.setdefault(page, []).append(now)
        self._num_layers = replay.grid.num_layers

    def decide(self, view: View) -> Plan:
        now = view.step * self._num_layers + view.layer
        short = max(0, -view.free_slots)
        candidates = np.flatnonzero(view.evictable).tolist()
        next_use = {page: next((use for use in self._uses.get(page, []) if use > now), 10**9) for page in candidates}
        furthest = sorted(candidates, key=lambda page: (-next_use[page], page))[:short]
        return Plan(victims=np.array(furthest, dtype=np.int64))


EVICTORS = [name for name, entry in POLICIES.items() if entry.kind == "eviction" and not entry.is_oracle]


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), frac=st.floats(0.35, 0.9))
def test_no_policy_beats_the_bound_without_prefetch(seed: int, frac: float) -> None:
    replay = make_replay(DriftingSource(num_steps=8, start_tokens=250, seed=seed))
    setting = setting_for("lru", replay, frac, quota=0)
    bound = [decision.hits.size for decision in drive(Belady(replay), setting, replay)]
    for name in ("attention", *EVICTORS):
        policy = make_policy(name, setting, {})
        assert sum(decision.hits.size for decision in drive(policy, setting, replay)) <= sum(bound), name


@pytest.mark.parametrize("is_compiled", [True, False])
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), frac=st.floats(0.35, 0.9))
def test_the_policy_belady_is_the_bound_that_is_worked_out_use_by_use(
    is_compiled: bool, seed: int, frac: float
) -> None:
    replay = make_replay(DriftingSource(num_steps=8, start_tokens=250, seed=seed))
    setting = setting_for("belady", replay, frac, quota=0)
    found = drive(make_policy("belady", setting, {"compiled": is_compiled}), setting, replay)
    expected = drive(Belady(replay), setting, replay)
    assert [decision.victims.tolist() for decision in found] == [decision.victims.tolist() for decision in expected]


def test_lru_evicts_what_a_plain_list_says() -> None:
    replay = make_replay(DriftingSource(seed=5))
    setting = setting_for("lru", replay, 0.4)
    order: list[int] = []
    policy = make_policy("lru", setting, {})
    residency = Residency(policy, setting, pinned_first_pages=PINNED, pinned_last_pages=PINNED)
    order += residency.start(replay.num_pages(replay.context_tokens(0) - 1)).tolist()
    evicted = 0
    for reading, decision in decisions_of(residency, policy, replay):
        for page in (*decision.opened.tolist(), *reading.selected.tolist()):
            if page in order:
                order.remove(page)
            order.append(page)
        pinned = {
            page
            for each in range(replay.grid.num_layers)
            for first in [replay.grid.first_page(sequence=0, layer=each)]
            for total in [int(residency._num_pages[0, each])]
            for page in (first, first + total - 2, first + total - 1)
        }
        oldest = [page for page in order if page not in pinned and page not in set(reading.selected.tolist())]
        expected = oldest[: decision.victims.size]
        assert sorted(expected) == decision.victims.tolist()
        order = [page for page in order if page not in set(expected)]
        evicted += len(expected)
    assert evicted > 50


def test_attention_misses_less_than_lru_where_attention_persists() -> None:
    replay = make_replay(DriftingSource(num_steps=60, start_tokens=800, seed=2), k_pages=8)
    misses = {}
    for name in ("lru", "attention"):
        setting = setting_for(name, replay, 0.35)
        decisions = drive(make_policy(name, setting, {}), setting, replay)
        misses[name] = sum(decision.misses.size for decision in decisions)
    assert misses["attention"] < 0.8 * misses["lru"]


def test_higher_confidence_prefetches_fewer_pages() -> None:
    replay = make_replay(DriftingSource(num_steps=30, start_tokens=800, seed=2), k_pages=8)
    setting = setting_for("attention", replay, 0.35)
    counts = [
        sum(
            decision.prefetches.size
            for decision in drive(make_policy("attention", setting, {"target_precision_frac": target}), setting, replay)
        )
        for target in (0.2, 0.9)
    ]
    assert counts[0] > counts[1] > 0


def test_confidence_falls_with_used_and_rises_with_wasted() -> None:
    setting = Setting(
        grid=PageGrid(num_sequences=1, num_layers=1, pages_per_layer=8),
        capacity_pages=4,
        partition="shared",
        prefetch_quota_pages=2,
        seed=0,
    )
    policy = make_policy("attention", setting, {})
    before = policy.confidence  # type: ignore[attr-defined]
    policy._adapt(used=0, wasted=3)  # type: ignore[attr-defined]
    raised = policy.confidence  # type: ignore[attr-defined]
    policy._adapt(used=6, wasted=0)  # type: ignore[attr-defined]
    assert before < raised
    assert policy.confidence < raised  # type: ignore[attr-defined]


class Faulty(OwnPolicy):
    """Returns the plan that a test hands it."""

    def __init__(self, plan: str) -> None:
        self._plan = plan

    def decide(self, view: View) -> Plan:
        gone = np.flatnonzero(view.evictable)[: max(0, -view.free_slots)]
        absent = np.flatnonzero(view.prefetchable)[:1]
        plans = {
            "selected leaves": Plan(victims=view.selected[:1]),
            "victim twice": Plan(victims=np.flatnonzero(view.evictable)[[0, 0]]),
            "too few victims": Plan(victims=gone[:-1]),
            "resident prefetched": Plan(victims=gone, prefetches=np.flatnonzero(view.resident)[:1]),
            "prefetch without slot": Plan(victims=gone, prefetches=absent),
            "prefetch twice": Plan(victims=np.flatnonzero(view.evictable), prefetches=np.repeat(absent, 2)),
            "negative victim": Plan(victims=np.flatnonzero(view.evictable)[:1] - view.evictable.size),
            "prefetch of no page": Plan(victims=gone, prefetches=np.array([view.resident.size])),
            "beyond quota": Plan(
                victims=np.flatnonzero(view.evictable), prefetches=np.flatnonzero(view.prefetchable)[:5]
            ),
        }
        return plans[self._plan]


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        ("selected leaves", "may not leave"),
        ("victim twice", "named twice"),
        ("too few victims", "without a slot"),
        ("resident prefetched", "cannot be prefetched"),
        ("prefetch without slot", "without a slot"),
        ("prefetch twice", "prefetched twice"),
        ("negative victim", "there is no page -"),
        ("prefetch of no page", "there is no page"),
        ("beyond quota", "the quota is"),
    ],
)
def test_plan_that_breaks_the_protocol_is_refused_by_name(plan: str, complaint: str) -> None:
    replay = make_replay(DriftingSource())
    setting = setting_for("lru", replay, 0.35)
    with pytest.raises(PolicyError, match=f"Faulty.*{complaint}"):
        drive(Faulty(plan), setting, replay)


def test_policy_from_another_package_is_found_by_module_and_class() -> None:
    assert find_policy("kvsim.policies.standalone.attention:Attention") is find_policy("attention")
    assert find_policy("kvsim.policies.evictors.lru:Lru") is find_policy("lru") is Paged


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("lur", "did you mean 'lru'"),
        ("no.such.module:Class", "cannot import"),
        ("kvsim.policies.evictors.lru:Lur", "has no 'Lur'"),
        ("kvsim.types:PageGrid", "not a policy class"),
    ],
)
def test_unknown_policy_names_what_would_be_right(name: str, complaint: str) -> None:
    with pytest.raises(ScenarioError, match=complaint):
        find_policy(name)


def test_unknown_or_impossible_argument_is_refused() -> None:
    setting = setting_for("attention", make_replay(DriftingSource()), 0.5)
    with pytest.raises(ScenarioError, match="did you mean 'decay_frac'"):
        make_policy("attention", setting, {"decay": 0.5})
    with pytest.raises(ScenarioError, match="decay_frac must be"):
        make_policy("attention", setting, {"decay_frac": 1.5})
    with pytest.raises(ScenarioError, match="shared"):
        make_policy("stream", setting_for("stream", make_replay(DriftingSource()), 0.9, partition="per_layer"), {})
