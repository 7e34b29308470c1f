"""What-ifs: the identity changes nothing, faster hardware is never slower, and what is found stands when run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import KvsimError, ResultError, ScenarioError
from kvsim.experiments.decode.simulate import simulate
from kvsim.experiments.decode.sweep.whatif import origin_of, reach, scenario_from, whatif
from kvsim.experiments.types import Job
from kvsim.profile.hypothetical import CHANGES, changed_profile, link_bandwidth_bytes_per_s
from kvsim.profile.profile import Profile, load_profile
from kvsim.report.results import RunResult
from kvsim.scenario.decode import load_scenario
from kvsim.scenario.shipped import find_profile, find_scenario

SMALL = ["trace.num_steps=6", "run.warmup_steps=2", "run.policies=lru,stream", "budget.pages_per_layer=[20, 60]"]


@pytest.fixture(scope="module")
def result() -> RunResult:
    return made(*SMALL)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile(find_profile("cpu-smollm2-135m"))


def made(*overrides: str) -> RunResult:
    path = find_scenario("smollm2_cpu")
    command = " ".join(["kvsim run smollm2_cpu", *(f"--set '{text}'" for text in overrides)])
    scenario = load_scenario(path, overrides)
    return simulate(scenario, Job(text=path.read_text(encoding="utf-8"), command=command, base_dir=path.parent))


def times(result: RunResult) -> list[float]:
    return [cell["tpot_p50_s"] for cell in result.summary["cells"]]


def test_a_change_by_a_factor_of_one_changes_no_figure(result: RunResult) -> None:
    found = whatif(result, [f"profile.{name}=x1" for name in CHANGES])
    assert times(found.result) == times(result)
    assert [pair.before["digest"] for pair in found.pairs] == [pair.after["digest"] for pair in found.pairs]


def test_a_changed_field_gives_what_a_run_with_it_gives(result: RunResult) -> None:
    found = whatif(result, ["page_tokens=64"])
    assert times(found.result) == times(made(*SMALL, "page_tokens=64"))
    assert [pair.swept["budget.pages_per_layer"] for pair in found.pairs] == [20, 20, 60, 60]


def test_a_field_set_to_one_value_stands_beside_every_value_it_had(result: RunResult) -> None:
    pairs = whatif(result, ["budget.pages_per_layer=30"]).pairs
    assert [(pair.policy, pair.swept["budget.pages_per_layer"]) for pair in pairs] == [
        (policy, pages) for pages in (20, 60) for policy in ("lru", "stream")
    ]
    assert pairs[0].after == pairs[2].after


@pytest.mark.parametrize("name", CHANGES)
def test_faster_hardware_is_faster_and_slower_hardware_slower(result: RunResult, name: str) -> None:
    base = times(result)
    faster, slower = (times(whatif(result, [f"profile.{name}={by}"]).result) for by in ("x4", "x0.25"))
    room = 1 + 1e-12  # sums in another order
    assert all(fast <= now * room <= slow * room**2 for fast, now, slow in zip(faster, base, slower, strict=True))
    assert any(fast < slow for fast, slow in zip(faster, slower, strict=True))


def test_a_hypothetical_machine_is_told_in_name_and_verdict(result: RunResult) -> None:
    summary = whatif(result, ["profile.link_bandwidth=x2"]).result.summary
    assert summary["profile"]["name"] == "cpu-smollm2-135m with link_bandwidth x2"
    assert any(line.startswith("Hypothetical: nobody measured cpu-smollm2-135m with") for line in summary["verdict"])


@given(factor=st.floats(min_value=0.01, max_value=1000))
def test_a_link_keeps_its_latency_and_gains_its_factor(profile: Profile, factor: float) -> None:
    changed = changed_profile(profile, "profile.link_bandwidth", f"x{factor!r}")
    old, new = profile.link.to_device.transfer, changed.link.to_device.transfer
    bandwidth = link_bandwidth_bytes_per_s(profile)
    for pieces, before, after in zip(old.amounts, old.time_s, new.time_s, strict=True):
        for size_bytes, before_s, after_s in zip(old.batches, before, after, strict=True):
            bytes_s = pieces * size_bytes / bandwidth
            assert after_s - bytes_s / factor == pytest.approx(before_s - bytes_s, abs=1e-12 + 1e-9 * after_s)
            assert after_s >= 0


def test_a_bandwidth_may_be_given_in_bytes_a_second(profile: Profile) -> None:
    doubled = changed_profile(profile, "profile.link_bandwidth", "x2")
    by_bytes = changed_profile(profile, "profile.link_bandwidth", str(round(2 * link_bandwidth_bytes_per_s(profile))))
    assert by_bytes.link.to_device.transfer.time_s[-1] == pytest.approx(doubled.link.to_device.transfer.time_s[-1])


def test_the_smallest_budget_that_reaches_a_time_reaches_it_and_one_page_less_does_not(result: RunResult) -> None:
    worst_s, best_s = (
        times(made(*SMALL[:2], "run.policies=lru", f"budget.pages_per_layer={pages}"))[0] for pages in (14, 60)
    )
    wanted_s = (worst_s + best_s) / 2
    (found,) = reach(result, "tpot_p50_s", wanted_s, "budget.pages_per_layer", 14, 120, changes=["run.policies=lru"])
    assert found.reached is not None and found.missed == found.reached - 1
    for pages, is_reached in ((found.reached, True), (found.missed, False)):
        alone = made(*SMALL[:2], "run.policies=lru", f"budget.pages_per_layer={pages:.0f}")
        assert (times(alone)[0] <= wanted_s) is is_reached


def test_a_time_that_no_value_reaches_is_said_to_be_out_of_reach(result: RunResult) -> None:
    found = reach(result, "tpot_p50_s", 1e-6, "profile.link_bandwidth", 1, 8, changes=["budget.pages_per_layer=20"])
    assert [(one.policy, one.reached, len(one.tried)) for one in found] == [("lru", None, 2), ("stream", None, 2)]


def test_a_budget_that_cannot_be_simulated_does_not_reach_anything(result: RunResult) -> None:
    (found,) = reach(result, "tpot_p50_s", 10.0, "budget.pages_per_layer", 2, 60, changes=["run.policies=lru"])
    assert found.reached is not None and found.missed == found.reached - 1
    assert dict(found.tried)[found.missed] is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["profile.link_bandwidt=x2"], "did you mean 'link_bandwidth'"),
        (["profile.link_bandwidth=fast"], "should be a factor above 0, as in x2, or bytes a second"),
        (["profile.compute_speed=2"], "should be a factor above 0, as in x2"),
        (["profile.compute_speed=x0"], "should be a factor above 0"),
        (["page_token=64"], "did you mean 'page_tokens'"),
        (["run.policies=resident"], "leave no policy of the result"),
    ],
)
def test_a_change_that_cannot_be_made_is_told_in_one_line(result: RunResult, changes: list[str], problem: str) -> None:
    with pytest.raises(ScenarioError, match=problem) as caught:
        whatif(result, changes)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_left_to_vary_is_named(result: RunResult) -> None:
    with pytest.raises(ScenarioError, match=r"budget.pages_per_layer vary"):
        reach(result, "tpot_p50_s", 0.1, "profile.link_bandwidth", 1, 8)


def test_a_result_that_does_not_tell_its_origin_is_refused(result: RunResult) -> None:
    silent = RunResult(summary=result.summary, rows={}, manifest=result.manifest | {"command": ""})
    with pytest.raises(ResultError, match="does not tell"):
        whatif(silent, ["page_tokens=64"])
    measured = RunResult(summary=result.summary | {"is_measured": True}, rows={}, manifest=result.manifest)
    with pytest.raises(KvsimError, match="was measured"):
        whatif(measured, ["page_tokens=64"])


def test_the_origin_of_a_result_is_its_scenario(result: RunResult) -> None:
    origin = origin_of(result)
    assert origin.beside == Path(find_scenario("smollm2_cpu")).parent
    assert scenario_from(origin).hash == result.summary["scenario_hash"]
