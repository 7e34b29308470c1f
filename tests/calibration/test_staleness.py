from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kvsim.calibration import staleness
from kvsim.calibration.machine import describe_machine, gpu_driver, kernels_digest
from kvsim.calibration.staleness import MIN_TOLERANCE_FRAC, judge, spots_of, stale_reasons, verdict_of
from kvsim.profile.profile import SEGMENTS, Machine, Profile, load_profile
from kvsim.scenario.shipped import find_profile
from tests.accesses import make_profile

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def here() -> Machine:
    made = describe_machine(device="cpu", num_threads=1, command="")
    return made.model_copy(update={"date": NOW.isoformat()})


def measured(here: Machine, **changes: Any) -> Profile:
    return make_profile().model_copy(update={"machine": here.model_copy(update=changes)})


def reasons(profile: Profile, here: Machine) -> list[str]:
    return stale_reasons(profile, profile.shape, here, today=NOW)


def test_profile_made_here_today_with_this_code_is_not_stale(here: Machine) -> None:
    assert reasons(measured(here), here) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": "Other CPU, 8 CPUs"}, "measured on Other CPU, 8 CPUs, this is"),
        ({"driver": "12.8"}, "the driver was 12.8"),
        ({"python": "3.9.1"}, "Python was 3.9, it is"),
        ({"versions": {"torch": "1.0", "transformers": "5.0"}}, "torch was 1.0, it is"),
        ({"versions": {}}, "transformers was not noted, it is"),
        ({"kernels": "0"}, "the engine's code has changed since"),
        ({"kernels": ""}, "does not say which engine code it timed"),
        ({"date": "2026-09-01T00:00:00+00:00"}, "it is 81 days old"),
    ],
)
def test_each_thing_that_differs_is_a_reason_of_its_own(here: Machine, change: dict[str, Any], told: str) -> None:
    found = reasons(measured(here, **change), here)
    assert any(told in reason for reason in found), found
    assert len(found) == (2 if "versions" in change else 1)


def test_another_shape_or_dtype_is_a_reason(here: Machine) -> None:
    profile = measured(here)
    other = profile.shape.model_copy(update={"dtype": "bf16"})
    (told,) = stale_reasons(profile, other, here, today=NOW)
    assert told == "it is for 3 layers of 64 in fp32, the model has 3 of 64 in bf16"


def test_published_costs_are_always_stale_for_a_machine(here: Machine) -> None:
    published = load_profile(find_profile("h200-llama-3-8b-published"))
    assert stale_reasons(published, published.shape, here) == ["its costs are published figures, not measured here"]


def test_digest_of_kernels_changes_with_code_and_not_with_words(tmp_path: Path) -> None:
    (tmp_path / "paged").mkdir()
    file = tmp_path / "paged" / "attention.py"
    file.write_text('"""One."""\n\ndef f(x):\n    """Two."""\n    return x + 1\n')
    first = kernels_digest(tmp_path)
    file.write_text('"""Other."""\n\n\ndef f(x):\n    # a comment\n    return (x + 1)\n')
    assert kernels_digest(tmp_path) == first
    (tmp_path / "paged" / "timeline.py").write_text("x = 1\n")  # nothing that is timed
    (tmp_path / "capture").mkdir()
    (tmp_path / "capture" / "recorder.py").write_text("x = 1\n")  # neither
    assert kernels_digest(tmp_path) == first
    file = file.rename(tmp_path / "paged" / "kernel.py")
    file.write_text("import torch\n" + file.read_text())
    assert kernels_digest(tmp_path) == first
    file.write_text("def f(x):\n    return x + 2\n")
    assert kernels_digest(tmp_path) != first


def samples(profile: Profile, times: dict[str, float]) -> dict[str, list[tuple[float, float, float]]]:
    """Return three samples of every segment and of copies, `times` as long as the profile says."""
    names = [*(f"segments.{name}" for name in SEGMENTS), "link.to_device"]
    tables = profile.tables()
    return {name: [(101, 1, tables[name].point_s(101, 1) * times.get(name, 1.0))] * 3 for name in names}


def off(profile: Profile, **times: float) -> set[str]:
    named = {name.replace("__", "."): value for name, value in times.items()}
    return {spot.cost for spot in spots_of(profile, samples(profile, named)) if spot.is_off}


def test_cost_outside_its_residuals_is_off_and_one_inside_is_not() -> None:
    profile = make_profile()
    assert off(profile) == set()
    assert off(profile, segments__attention=1 + 0.9 * MIN_TOLERANCE_FRAC) == set()
    assert off(profile, segments__attention=1 + 1.1 * MIN_TOLERANCE_FRAC) == {"attention"}
    assert off(profile, segments__attention=1 - 1.1 * MIN_TOLERANCE_FRAC) == {"attention"}
    assert off(profile, link__to_device=1.5) == {"link.to_device"}
    wide = profile.segments["attention"].device.model_copy(update={"residual_high_frac": 0.6})
    segments = profile.segments | {"attention": profile.segments["attention"].model_copy(update={"device": wide})}
    assert off(profile.model_copy(update={"segments": segments}), segments__attention=1.5) == set()


def test_cost_that_hardly_counts_is_never_off() -> None:
    assert off(make_profile(), segments__embed=3.0) == set()  # once a step, of twelve such and three times attention


def test_verdict_names_the_worst_two_and_who_else_computed() -> None:
    profile = make_profile()
    slow = {"segments.attention": 1.4, "segments.attention_output": 1.3, "segments.select": 1.2}
    found = verdict_of("p", spots_of(profile, samples(profile, slow)), 0.6)
    assert found.is_stale
    assert found.line == (
        "profile p is stale: attention takes 1.40 times what it says (0.90 to 1.10 would do); attention_output takes "
        "1.30 times what it says (0.90 to 1.10 would do); 1 more off; other programs used 60% of a processor "
        "meanwhile"
    )
    held = verdict_of("p", spots_of(profile, samples(profile, {"segments.attention": 1.05})), 0.6)
    assert not held.is_stale
    assert held.line == "profile p holds: 7 costs timed again lie within 5% of it"


def test_nothing_is_timed_where_the_profile_itself_says_that_it_is_stale(
    here: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*arguments: object) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(staleness, "spot_samples", timed)
    profile = measured(here, kernels="")
    assert judge(profile, profile.shape, "nowhere").line == (
        "profile test is stale: it does not say which engine code it timed"
    )
    fresh = measured(here, date=datetime.now(UTC).isoformat())
    with pytest.raises(AssertionError, match="timed"):
        judge(fresh, fresh.shape, "nowhere")


def test_the_driver_is_read_from_its_own_file(tmp_path):
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Tue Oct  7 19:51:35 UTC 2025\nGCC version: 13\n"
    )
    assert gpu_driver(file) == "580.159.04"
    file.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\n")
    assert gpu_driver(file) == "575.57.08"


def test_without_a_driver_torchs_own_cuda_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpu_driver(tmp_path / "none").startswith("CUDA ")
