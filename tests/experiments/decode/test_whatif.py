"""What-ifs: the identity changes nothing, faster hardware is never slower, and what is found stands when run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import KvsimError, ResultError, ScenarioError
from kvsim.experiments.decode.simulate import simulate
from kvsim.experiments.decode.sweep.reach import reach
from kvsim.experiments.decode.sweep.whatif import origin_of, whatif
from kvsim.experiments.types import Job
from kvsim.profile.hypothetical import CHANGES, changed_profile, link_bandwidth_bytes_per_s
from kvsim.profile.profile import Profile, load_profile
from kvsim.report.results import RunResult
from kvsim.scenario.decode import load_scenario
from kvsim.scenario.digest import file_digest
from kvsim.scenario.shipped import find_capture, find_profile, find_scenario
from tests.experiments.decode.small import SMALL, made, times


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile(find_profile("cpu-smollm2-135m"))


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
        for size_bytes, before_s, after_s in zip(old.columns, before, after, strict=True):
            bytes_s = pieces * size_bytes / bandwidth
            assert after_s - bytes_s / factor == pytest.approx(before_s - bytes_s, abs=1e-12 + 1e-9 * after_s)
            assert after_s >= 0


def test_a_bandwidth_may_be_given_in_bytes_a_second(profile: Profile) -> None:
    doubled = changed_profile(profile, "profile.link_bandwidth", "x2")
    by_bytes = changed_profile(profile, "profile.link_bandwidth", str(round(2 * link_bandwidth_bytes_per_s(profile))))
    assert by_bytes.link.to_device.transfer.time_s[-1] == pytest.approx(doubled.link.to_device.transfer.time_s[-1])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["profile.link_bandwidt=x2"], "did you mean 'link_bandwidth'"),
        (["profile.link_bandwidth=fast"], "should be a factor above 0, as in x2, or bytes a second"),
        (["profile.compute_speed=2"], "should be a factor above 0, as in x2"),
        (["profile.compute_speed=x0"], "should be a factor above 0"),
        (["page_token=64"], "did you mean 'page_tokens'"),
        (["foo=1"], r"unknown key 'foo'; the nearest are output.folder, "),
        (["pages_per_layer=1"], "did you mean 'budget.pages_per_layer'"),
        (["run.policies=resident"], "leave no policy of the result"),
    ],
)
def test_a_change_that_cannot_be_made_is_told_in_one_line(result: RunResult, changes: list[str], problem: str) -> None:
    with pytest.raises(ScenarioError, match=problem) as caught:
        whatif(result, changes)
    assert len(str(caught.value).splitlines()) == 1


def test_a_result_that_does_not_record_its_scenario_is_refused(result: RunResult) -> None:
    silent = RunResult(summary=result.summary, rows={}, manifest=result.manifest | {"resolved": None})
    with pytest.raises(ResultError, match="does not record the scenario that made it"):
        whatif(silent, ["page_tokens=64"])
    measured = RunResult(summary=result.summary | {"is_measured": True}, rows={}, manifest=result.manifest)
    with pytest.raises(KvsimError, match="was measured"):
        whatif(measured, ["page_tokens=64"])


@pytest.mark.parametrize("kind", ["prefix-blocks", "max-context"])
def test_a_result_of_another_experiment_is_refused(kind: str) -> None:
    other = RunResult(summary={"kind": kind, "scenario": "x", "cells": []}, rows={}, manifest={})
    with pytest.raises(ResultError, match=rf"takes results of decode .* this is of {kind}") as caught:
        whatif(other, ["page_tokens=64"])
    assert "\n" not in str(caught.value)


def test_the_origin_of_a_result_is_its_resolved_scenario(result: RunResult) -> None:
    origin = origin_of(result)
    assert origin.base_dir == Path(find_scenario("smollm2_cpu")).parent.resolve()
    assert origin.scenario().hash == result.summary["scenario_hash"]
    assert list(origin.overrides) == SMALL
    assert result.manifest["command"] == ""  # made through Python, and yet all is known


@pytest.fixture
def own_files(tmp_path: Path) -> Path:
    """Return a scenario file whose profile and trace lie in its folder."""
    shutil.copy(find_profile("cpu-smollm2-135m"), tmp_path / "p.toml")
    shutil.copy(find_capture("smollm2-docs"), tmp_path / "t.kvtrace")
    text = find_scenario("smollm2_cpu").read_text(encoding="utf-8")
    text = text.replace('"cpu-smollm2-135m"', '"p.toml"').replace('"smollm2-docs"', '"t.kvtrace"')
    (tmp_path / "s.toml").write_text(text, encoding="utf-8")
    return tmp_path / "s.toml"


def simulated(file: Path) -> RunResult:
    return simulate(
        load_scenario(file, [*SMALL[:2], "run.policies=lru", "budget.pages_per_layer=30"]), Job(base_dir=file.parent)
    )


def test_a_profile_that_has_changed_since_is_refused_and_one_that_has_not_is_not(own_files: Path) -> None:
    made_with = simulated(own_files)
    (digest,) = [one["digest"] for one in made_with.manifest["inputs"] if one["role"] == "profile"]
    assert digest == file_digest(own_files.with_name("p.toml"))
    assert whatif(made_with, ["page_tokens=64"]).pairs
    profile = own_files.with_name("p.toml")
    profile.write_text(profile.read_text(encoding="utf-8").replace("sync_s = ", "sync_s = 1", 1), encoding="utf-8")
    with pytest.raises(
        ResultError, match=r"profile 'p.toml' has changed since the result was made \([0-9a-f]{32}, now"
    ):
        whatif(made_with, ["page_tokens=64"])
    with pytest.raises(ResultError, match=r"profile 'p.toml' has changed"):
        reach(made_with, "tpot_p50_s", 1.0, "budget.pages_per_layer", 20, 40)
    assert whatif(made_with, ["profile.path=cpu-smollm2-135m"]).pairs  # it is not read any more


def test_a_trace_that_has_changed_since_is_refused(own_files: Path) -> None:
    made_with = simulated(own_files)
    shutil.copy(find_capture("smollm2-code"), own_files.with_name("t.kvtrace"))
    with pytest.raises(ResultError, match=r"trace 't.kvtrace' has changed since the result was made"):
        whatif(made_with, ["page_tokens=64"])
    own_files.with_name("t.kvtrace").unlink()
    with pytest.raises(ResultError, match=r"trace 't.kvtrace' cannot be read any more"):
        whatif(made_with, ["page_tokens=64"])


def test_the_code_of_a_plug_in_that_has_changed_since_is_refused(
    own_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_helper.py").write_text("WORDS = 1\n", encoding="utf-8")
    source = "import my_helper\nfrom kvsim.policies.evictors.lru import Lru\nclass MyLru(Lru): ...\n"
    (tmp_path / "my_whatif_policy.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    scenario = load_scenario(
        own_files, [*SMALL[:2], "run.policies=my_whatif_policy:MyLru", "budget.pages_per_layer=30"]
    )
    made_with = simulate(scenario, Job(base_dir=tmp_path))
    assert whatif(made_with, ["page_tokens=64"]).pairs
    (tmp_path / "my_helper.py").write_text("WORDS = 2\n", encoding="utf-8")
    with pytest.raises(ResultError, match=r"policy 'my_whatif_policy:MyLru' has changed"):
        whatif(made_with, ["page_tokens=64"])
