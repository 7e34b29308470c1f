"""What a layer predicts of the next reaches the policies that ask for it, and is paid for by them alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kvsim.errors import CalibrationError
from kvsim.policies import Policy, Setting, make_policy
from kvsim.profile.profile import SPECULATE, Profile
from kvsim.sim import Replay, simulate_decode
from kvsim.sim.ledger import TIMES
from kvsim.traces.access.base import NEXT_LAYER
from tests.accesses import PAGE_TOKENS, DriftingSource, constant, make_input, make_profile, make_replay, make_setting
from tests.speculative import Speculative


def lru(setting: Setting) -> Policy:
    return make_policy("lru", setting, {})


MACHINES: list[dict[str, Any]] = [{}, {"synchronous": False, "issue": "stream"}]


def without_cost() -> Profile:
    profile = make_profile()
    return profile.model_copy(
        update={"segments": {name: cost for name, cost in profile.segments.items() if name != SPECULATE}}
    )


def run(
    replay: Replay, policy_class: Callable[[Setting], Any], profile: Profile, capacity_frac: float = 0.4
) -> tuple[Any, dict[str, NDArray[Any]]]:
    setting = make_setting(replay, int(capacity_frac * replay.grid.num_pages))
    policy = policy_class(setting)
    return policy, dict(simulate_decode(make_input(replay, policy, setting, profile)))


def test_a_policy_sees_at_each_layer_but_the_last_what_the_trace_predicts_of_the_next() -> None:
    source = DriftingSource()
    policy, rows = run(make_replay(source), Speculative, make_profile())
    assert [(step, layer) for step, layer, _ in policy.seen] == [(s, n) for s in range(20) for n in (0, 1)]
    for step, layer, best in policy.seen:
        np.testing.assert_array_equal(best, source.scores(step, layer + 1, NEXT_LAYER, PAGE_TOKENS).argmax(axis=1))
    assert rows["used"].sum() > 20


def test_a_policy_that_does_not_ask_is_shown_nothing_and_pays_nothing() -> None:
    class Silent(Speculative):
        reads_speculation = False

    silent, rows = run(make_replay(DriftingSource()), Silent, without_cost())
    assert not silent.seen
    np.testing.assert_allclose(rows["select_s"], run(make_replay(DriftingSource()), lru, make_profile())[1]["select_s"])


@pytest.mark.parametrize("machine", MACHINES)
def test_predicting_costs_its_segment_at_every_layer_but_the_last(machine: dict[str, Any]) -> None:
    profile = make_profile(**machine)
    dear = profile.segments | {SPECULATE: profile.segments[SPECULATE].model_copy(update={"device": constant(7e-4)})}
    _, rows = run(make_replay(DriftingSource()), Speculative, profile.model_copy(update={"segments": dear}))
    _, plain = run(make_replay(DriftingSource()), lru, profile)
    np.testing.assert_allclose(rows["select_s"] - plain["select_s"], 2 * 7e-4)
    np.testing.assert_allclose(sum(rows[name] for name in TIMES), rows["step_s"], rtol=1e-9)


def test_selecting_by_speculation_pays_for_it_under_any_policy() -> None:
    source = DriftingSource()
    by_mass = make_replay(source)
    predicted = Replay(source, by_mass._selector, channel=NEXT_LAYER, page_tokens=PAGE_TOKENS, num_steps=20)
    _, rows = run(predicted, lru, make_profile())
    _, plain = run(by_mass, lru, make_profile())
    np.testing.assert_allclose(rows["select_s"] - plain["select_s"], 2 * 1e-4)


def test_a_profile_without_that_cost_is_one_line() -> None:
    with pytest.raises(
        CalibrationError, match=r"^profile test: no cost of segment 'speculate'.*take one that `kvsim calibrate` wrote$"
    ):
        run(make_replay(DriftingSource()), Speculative, without_cost())
    profile = without_cost()
    single = profile.model_copy(update={"shape": profile.shape.model_copy(update={"num_layers": 1})})
    with pytest.raises(CalibrationError, match="one layer with pages and none to predict: take another policy or"):
        single.segment(SPECULATE)


def test_where_everything_is_read_nothing_is_prediction() -> None:
    replay = make_replay(DriftingSource(), full=True)
    setting = make_setting(replay)
    policy = Speculative(setting)
    simulate_decode(make_input(replay, policy, setting, without_cost()))
    assert not policy.seen


@pytest.mark.parametrize(("pays_from_pages", "predicts"), [(0.0, True), (100.0, False)])
def test_the_predictive_policy_pays_for_predictions_only_where_layers_need_pages(
    pays_from_pages: float, predicts: bool
) -> None:
    """It learns what layers need in the first step, in which nothing is predicted."""
    dear = make_profile()
    segments = dear.segments | {SPECULATE: dear.segments[SPECULATE].model_copy(update={"device": constant(7e-4)})}
    dear = dear.model_copy(update={"segments": segments})

    def predictive(setting: Setting) -> Policy:
        return make_policy("predictive", setting, {"pays_from_pages": pays_from_pages})

    _, rows = run(make_replay(DriftingSource()), predictive, dear)
    _, plain = run(make_replay(DriftingSource()), lru, dear)
    predicted_s = rows["select_s"] - plain["select_s"]
    np.testing.assert_allclose(predicted_s[2:], 2 * 7e-4 if predicts else 0.0, atol=1e-12)
    np.testing.assert_allclose(predicted_s[0], 0.0, atol=1e-12)


def test_predicted_pages_come_before_their_layer_and_push_out_what_is_needed_latest() -> None:
    """With exact predictions most misses of the history's policy are prefetched in time."""
    source = DriftingSource(num_steps=40)

    def policy_of(name: str, **arguments: Any) -> Callable[[Setting], Policy]:
        return lambda setting: make_policy(name, setting, arguments)

    _, by_history = run(make_replay(source), policy_of("attention"), make_profile(), capacity_frac=0.35)
    _, predictive = run(
        make_replay(source), policy_of("predictive", pays_from_pages=0.0, reach_frac=1.0), make_profile(), 0.35
    )
    misses, fewer = (int(rows["misses"][4:].sum()) for rows in (by_history, predictive))
    assert fewer < 0.6 * misses, (fewer, misses)
