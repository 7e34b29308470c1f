"""What ships is found by name, in a checkout and in an installed package; what does not exist is told with a guess."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvsim.errors import CalibrationError, KvsimError, ScenarioError, TraceError
from kvsim.scenario import shipped as assets
from kvsim.scenario.shipped import find_capture, find_profile, find_scenario, shipped_scenarios


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a pretended checkout: a package beside folders with one scenario, two profiles and one capture."""
    for file in ("scenarios/one.toml", "profiles/fast.toml", "profiles/slow.toml", "captures/docs.kvtrace"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "profiles" / "README.md").touch()
    (tmp_path / "kvsim").mkdir()
    monkeypatch.setattr(assets, "_PACKAGE", tmp_path / "kvsim")
    return tmp_path


def test_shipped_names_are_found_beside_the_package_in_a_checkout(root: Path) -> None:
    assert find_profile("fast") == root / "profiles" / "fast.toml"
    assert find_capture("docs") == root / "captures" / "docs.kvtrace"
    assert find_scenario("one") == root / "scenarios" / "one.toml"
    assert list(assets.shipped("profiles", ".toml")) == ["fast", "slow"]


def test_shipped_names_are_found_inside_an_installed_package(root: Path) -> None:
    inside = root / "kvsim" / "_shipped" / "profiles"
    inside.mkdir(parents=True)
    (inside / "packed.toml").touch()
    assert find_profile("packed") == inside / "packed.toml"
    with pytest.raises(CalibrationError):
        find_profile("fast")


def test_a_path_is_taken_from_here_and_then_from_beside_the_scenario(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "mine"
    beside.mkdir()
    (beside / "p.toml").touch()
    monkeypatch.chdir(root)
    assert find_profile("p.toml", beside) == beside / "p.toml"
    (root / "p.toml").touch()
    assert find_profile("p.toml", beside) == Path("p.toml")
    assert find_profile("profiles/fast.toml", beside) == Path("profiles/fast.toml")
    assert find_profile(str(beside / "p.toml")) == beside / "p.toml"


@pytest.mark.parametrize(
    ("find", "name", "error", "message"),
    [
        (
            find_profile,
            "fats",
            CalibrationError,
            "fats: no profile of this name ships with kvsim; did you mean 'fast'?",
        ),
        (find_profile, "xyz", CalibrationError, "xyz: no profile of this name ships with kvsim; known: fast, slow"),
        (find_profile, "p/fast", CalibrationError, "p/fast: no such profile file"),
        (find_capture, "doc", TraceError, "doc: no capture of this name ships with kvsim; did you mean 'docs'?"),
        (find_capture, "no.kvtrace", TraceError, "no.kvtrace: no such capture file"),
        (find_scenario, "on", ScenarioError, "on: no scenario of this name ships with kvsim; did you mean 'one'?"),
        (find_scenario, "x" * 5000 + ".toml", ScenarioError, "x"),
        (find_scenario, "a\0b.toml", ScenarioError, "a\0b.toml: no such scenario file"),
    ],
)
def test_what_does_not_exist_is_told_in_one_line(
    root: Path, find: Callable[[str], Path], name: str, error: type[KvsimError], message: str
) -> None:
    with pytest.raises(error) as caught:
        find(name)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_in_neither_place_names_both(root: Path) -> None:
    with pytest.raises(TraceError, match=r"^x\.kvtrace: no such capture file here, nor in .*profiles$"):
        find_capture("x.kvtrace", root / "profiles")


def test_this_checkout_ships_the_demo() -> None:
    assert {"long_context", "smollm2_cpu"} <= set(shipped_scenarios())
