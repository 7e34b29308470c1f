"""What goes wrong in somebody else's policy is reported under its name, with its own lines, wherever it goes wrong."""

from __future__ import annotations

import contextlib
import copy
import io
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given

from kvsim.errors import PolicyError, ScenarioError
from kvsim.policies import Setting, find_policy, make_policy
from kvsim.policies.registry import load_class
from kvsim.policies.testing.driving import MadeAccesses, digest_of, drive, setting_for
from tests.policies.plug_ins import ANYTHING, Good, run

HERE = __name__


class Returning(Good):
    """Returns as victims what a test puts here."""

    value: ClassVar[Any] = None

    def victims(self, view, pool, count, spared):
        return self.value


class TooMany(Good):
    def victims(self, view, pool, count, spared):
        return self.pages(view, pool, spared)[: count + 1]


class TooFew(Good):
    def victims(self, view, pool, count, spared):
        return self.pages(view, pool, spared)[: count - 1]


class Twice(Good):
    def victims(self, view, pool, count, spared):
        return np.repeat(self.pages(view, pool, spared)[:count], 2)[:count]


class Selected(Good):
    def victims(self, view, pool, count, spared):
        return view.selected[:count]


class OfAnotherLayer(Good):
    def victims(self, view, pool, count, spared):
        found = np.flatnonzero(view.evictable)
        return found[self.setting.grid.layer_of(found) != pool][:count]


class WritesSelected(Good):
    def touch(self, view):
        view.selected[:] = 0


class WritesMisses(Good):
    def touch(self, view):
        view.misses[:] = 0


class WritesScores(Good):
    def touch(self, view):
        view.scores[:] = np.nan


class WritesEvictable(Good):
    def touch(self, view):
        view.evictable[:] = True


class WritesResident(Good):
    def touch(self, view):
        view.resident[:] = True


class WritesPrefetchable(Good):
    def touch(self, view):
        view.prefetchable[:] = True


class WritesArrived(Good):
    def arrived(self, pages):
        pages[:] = 0


class Exiting(Good):
    def touch(self, view):
        raise SystemExit(3)


class Raising(Good):
    def victims(self, view, pool, count, spared):
        return self._order[count]  # there is no such attribute


class RaisingLate(Good):
    count = 0

    def arrived(self, pages):
        self.count += 1
        if self.count > 3:
            raise KeyError("no such luck")


class Interrupting(Good):
    def touch(self, view):
        raise GeneratorExit


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise ValueError("this one has no text")


class Speechless(Good):
    def touch(self, view):
        raise SpeechlessError


class RaisingInNumpy(Good):
    def touch(self, view):
        np.concatenate([])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("TooMany", r"victims returns \d+ pages, \d+ were asked for"),
        ("TooFew", r"victims names \d+ of \d+ pages, though \d+ more may leave"),
        ("Twice", "victims has a page twice"),
        ("Selected", r"victims returns page \d+, which may not leave now \(view.evictable, spared\)"),
        ("WritesSelected", r"touch raised ValueError: assignment destination is read-only \(test_plug_ins.py, line"),
        ("WritesMisses", "touch raised ValueError: assignment destination is read-only"),
        ("WritesScores", "touch raised ValueError: assignment destination is read-only"),
        ("WritesEvictable", "touch raised ValueError: assignment destination is read-only"),
        ("WritesResident", "touch raised ValueError: assignment destination is read-only"),
        ("WritesPrefetchable", "touch raised ValueError: assignment destination is read-only"),
        ("Exiting", r"touch raised SystemExit: 3 \(test_plug_ins.py, line"),
        ("Raising", r"victims raised AttributeError: .*_order.* \(test_plug_ins.py, line"),
        ("RaisingLate", r"arrived raised KeyError: 'no such luck' \(test_plug_ins.py, line"),
        ("Interrupting", r"touch raised GeneratorExit \(test_plug_ins.py, line"),
        ("Speechless", r"touch raised SpeechlessError \(test_plug_ins.py, line"),
        ("RaisingInNumpy", r"touch raised ValueError: need at least one array to concatenate \(test_plug_ins.py, line"),
    ],
)
def test_an_evictors_error_is_a_line_with_step_and_layer_and_its_own_code(name: str, problem: str) -> None:
    with pytest.raises(PolicyError) as caught:
        run(f"{HERE}:{name}")
    first, *frames = str(caught.value).splitlines()
    assert re.match(rf"policy '{HERE}:{name}': step \d+, layer \d: {problem}", first)
    assert all(__file__ in line for line in frames[::2])
    assert bool(frames) == (" raised " in first)


def test_what_is_passed_before_the_first_step_is_read_only_too() -> None:
    with pytest.raises(PolicyError, match=rf"policy '{HERE}:WritesArrived': arrived raised ValueError: .*read-only"):
        run(f"{HERE}:WritesArrived")


def test_a_page_of_another_pool_is_refused() -> None:
    assert run(f"{HERE}:Good", partition="per_layer")
    with pytest.raises(PolicyError, match="a page of another layer than 0, whose pool was asked for"):
        run(f"{HERE}:OfAnotherLayer", partition="per_layer")


@given(ANYTHING)
def test_whatever_an_evictor_returns_is_used_or_refused_under_its_name(value: Any) -> None:
    Returning.value = value
    with pytest.raises(PolicyError) as caught:  # at one decision or another, no fixed value is right
        run(f"{HERE}:Returning")
    assert str(caught.value).startswith(f"policy '{HERE}:Returning': step ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("class Mine(:\n", r"SyntaxError: .*\(broken.py, line 1\)"),
        ("raise RuntimeError('no such luck')\n", r"RuntimeError: no such luck \(broken.py, line 1\)"),
        ("import sys\n\nsys.exit('bye')\n", r"SystemExit: bye \(broken.py, line 3\)"),
        ("import nothing_of_this_name\n", r"No module named 'nothing_of_this_name' \(broken.py, line 1\)"),
        ("1 / 0\n", r"ZeroDivisionError: division by zero \(broken.py, line 1\)"),
    ],
)
def test_an_error_at_import_is_attributed(tmp_path: Path, monkeypatch, content: str, problem: str) -> None:
    (tmp_path / "broken.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ScenarioError) as caught:
        find_policy("broken:Mine")
    first, *frames = str(caught.value).splitlines()
    assert re.match(rf"policy 'broken:Mine': cannot import 'broken': {problem}", first)
    assert all(str(tmp_path / "broken.py") in line for line in frames[::2])


@pytest.mark.parametrize("name", ["../x:Y", "x/y:Z", ".x:Y", "x:", ":Y", "x:Y:Z", "a b:C", "x:y z", "..:Y"])
def test_a_name_that_names_no_class_is_one_line(name: str) -> None:
    with pytest.raises(ScenarioError, match=r"names no class; write package\.module:Class\Z"):
        find_policy(name)


def test_a_misspelt_class_is_told_the_nearest() -> None:
    with pytest.raises(ScenarioError, match="has no 'Godo'; did you mean 'Good'"):
        load_class(f"{HERE}:Godo", "policy")


class Printing(Good):
    def __init__(self, setting: Setting) -> None:
        sys.stdout.write("made\n")
        super().__init__(setting)

    def touch(self, view):
        sys.stdout.write("touched\n")


def test_what_a_plug_in_prints_goes_to_standard_error() -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        run(f"{HERE}:Printing")
        sys.stdout.write("ours\n")
    assert out.getvalue() == "ours\n"
    assert err.getvalue().startswith("made\ntouched\n")


def test_a_copy_of_a_plug_in_decides_on_its_own() -> None:
    accesses = MadeAccesses(
        num_steps=4, num_layers=3, num_sequences=1, pages_per_layer=20, k_pages=6, everything=False, seed=1
    )
    setting = setting_for(accesses, capacity_pages=30, partition="shared", quota_pages=4, seed=7)
    policy = make_policy(f"{HERE}:Good", setting, {})
    copied = copy.deepcopy(policy)
    assert copied.evictor is not policy.evictor  # type: ignore[attr-defined]
    assert copied.evictor.setting is not policy.evictor.setting  # type: ignore[attr-defined]
    assert digest_of(drive(copied, setting, accesses)) == digest_of(drive(policy, setting, accesses))
