"""What goes wrong in somebody else's policy is reported under its name, with its own lines, wherever it goes wrong."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from joblib.externals.loky import get_reusable_executor

from kvsim.cli import run_command
from kvsim.errors import PolicyError, ScenarioError
from kvsim.policies import Plan, Setting, View, find_policy, make_policy
from kvsim.policies.registry import load_class
from kvsim.policies.testing.driving import MadeAccesses, digest_of, drive, setting_for

HERE = __name__


def run(name: str, arguments: dict[str, Any] | None = None, *, partition: str = "shared") -> str:
    """Run a policy over made-up accesses and return a digest of what it decided."""
    accesses = MadeAccesses(
        num_steps=8, num_layers=3, num_sequences=1, pages_per_layer=20, k_pages=6, everything=False, seed=1
    )
    shared = "per_layer" if partition == "per_layer" else "shared"
    setting = setting_for(accesses, capacity_pages=30, partition=shared, quota_pages=4, seed=7)
    return digest_of(drive(make_policy(name, setting, arguments or {}), setting, accesses))


class Good:
    """An evictor that lets the smallest ids go; what others below spoil."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def arrived(self, pages):
        pass

    def touch(self, view):
        pass

    def left(self, pages):
        pass

    def pages(self, view: View, pool: int, spared: Any) -> Any:
        found = np.flatnonzero(view.evictable if spared is None else view.evictable & ~spared)
        return found if self.setting.partition == "shared" else found[self.setting.grid.layer_of(found) == pool]

    def victims(self, view, pool, count, spared):
        return self.pages(view, pool, spared)[:count]


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


ANYTHING = st.one_of(
    st.none(),
    st.text(),
    st.integers(),
    st.lists(st.integers(-5, 70), max_size=4),
    arrays.arrays(
        st.sampled_from([np.int64, np.uint8, np.float64, np.bool_, np.dtype("U3"), np.dtype(object)]),
        arrays.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4),
    ),
    arrays.arrays(np.int64, st.integers(0, 4), elements=st.integers(-3, 70)),
)


@given(ANYTHING)
def test_whatever_an_evictor_returns_is_used_or_refused_under_its_name(value: Any) -> None:
    Returning.value = value
    with pytest.raises(PolicyError) as caught:  # at one decision or another, no fixed value is right
        run(f"{HERE}:Returning")
    assert str(caught.value).startswith(f"policy '{HERE}:Returning': step ")
    assert "\n" not in str(caught.value)


class Ahead:
    """A prefetcher that wants and spares what a test puts here."""

    reads_speculation: ClassVar[bool] = False
    wants: ClassVar[Any] = None
    spares: ClassVar[Any] = None

    def __init__(self, setting: Setting) -> None:
        pass

    def start(self, resident):
        pass

    def opened(self, page):
        pass

    def wanted(self, view):
        return np.flatnonzero(view.prefetchable)[:2] if self.wants is None else self.wants

    def spared(self, view):
        return self.spares

    def left(self, victims):
        pass


class UnreadableMethod(Good):
    @property
    def victims(self):
        raise RuntimeError("not yet")


class UnreadableStatement(Ahead):
    @property
    def reads_speculation(self):
        raise RuntimeError("not yet")


@pytest.mark.parametrize(
    ("name", "arguments", "start"),
    [
        ("UnreadableMethod", {}, rf"policy '{HERE}:UnreadableMethod': victims"),
        (
            "lru",
            {"prefetch": f"{HERE}:UnreadableStatement"},
            rf"prefetcher '{HERE}:UnreadableStatement': reads_speculation",
        ),
    ],
)
def test_a_property_that_raises_is_reported_as_a_method_that_does(name: str, arguments: Any, start: str) -> None:
    with pytest.raises(PolicyError, match=rf"\A{start} raised RuntimeError: not yet \(test_plug_ins.py, line"):
        run(name if arguments else f"{HERE}:{name}", arguments)


class OnTrial:
    """An admission that names what a test puts here."""

    first: ClassVar[Any] = None

    def __init__(self, setting: Setting) -> None:
        pass

    def touch(self, view):
        pass

    def first_out(self, view, pool, count, spared):
        return self.first

    def left(self, victims):
        pass


@given(ANYTHING)
def test_whatever_a_prefetcher_wants_is_used_or_refused_under_its_name(value: Any) -> None:
    Ahead.wants, Ahead.spares = value, None
    outcome = outcome_of("lru", {"prefetch": f"{HERE}:Ahead"})
    assert outcome is None or outcome.startswith(f"prefetcher '{HERE}:Ahead': step 0, layer ")


@given(ANYTHING)
def test_whatever_a_prefetcher_spares_is_used_or_refused_under_its_name(value: Any) -> None:
    Ahead.wants, Ahead.spares = np.empty(0, dtype=np.int64), value
    outcome = outcome_of("lru", {"prefetch": f"{HERE}:Ahead"})
    assert outcome is None or outcome.startswith(f"prefetcher '{HERE}:Ahead': step 0, layer 0: spared returns ")


@given(ANYTHING)
def test_whatever_an_admission_names_is_used_or_refused_under_its_name(value: Any) -> None:
    OnTrial.first = value
    outcome = outcome_of("lru", {"admission": f"{HERE}:OnTrial"})
    assert outcome is None or outcome.startswith(f"admission '{HERE}:OnTrial': step ")


def outcome_of(name: str, arguments: dict[str, Any]) -> str | None:
    """Return the error that a run ends in, None where it ends well; any other exception is a failure."""
    try:
        run(name, arguments)
    except PolicyError as problem:
        return str(problem)
    return None


class Whole:
    """A whole policy that plans what a test puts here."""

    attends: ClassVar[Any] = "selection"
    holds: ClassVar[Any] = "budget"
    reads_selection: ClassVar[bool] = True
    plan: ClassVar[Any] = None

    def __init__(self, setting: Setting, *, raises: str = "") -> None:
        self._raises = raises
        self._fail("__init__")

    def _fail(self, name: str) -> None:
        if self._raises == name:
            raise LookupError("no such luck")

    def start(self, resident):
        self._fail("start")

    def page_opened(self, page):
        self._fail("page_opened")

    def decide(self, view):
        self._fail("decide")
        return Plan(victims=np.flatnonzero(view.evictable)[: max(0, -view.free_slots)])


class Planning(Whole):
    def decide(self, view):
        return self.plan


@given(st.one_of(ANYTHING, st.builds(Plan, victims=ANYTHING, prefetches=ANYTHING)))
def test_whatever_a_whole_policy_plans_is_used_or_refused_under_its_name(plan: Any) -> None:
    Planning.plan = plan
    outcome = outcome_of(f"{HERE}:Planning", {})
    assert outcome is not None
    assert outcome.startswith(f"policy '{HERE}:Planning': step ")


@pytest.mark.parametrize("method", ["__init__", "start", "page_opened", "decide"])
def test_an_error_in_any_call_is_attributed(method: str) -> None:
    with pytest.raises(PolicyError) as caught:
        run(f"{HERE}:Whole", {"raises": method})
    first, *frames = str(caught.value).splitlines()
    assert first.startswith(f"policy '{HERE}:Whole': ")
    assert f"{method} raised LookupError: no such luck (test_plug_ins.py, line " in first
    assert [line.split(", in ")[1] for line in frames[::2]] == [method, "_fail"]


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


def test_a_refusal_in_the_constructor_is_its_message_alone() -> None:
    class Refusing(Whole):
        def __init__(self, setting: Setting) -> None:
            raise ValueError("needs an even number of pages")

    globals()["Refusing"] = Refusing
    with pytest.raises(ScenarioError, match=rf"\Apolicy '{HERE}:Refusing': needs an even number of pages\Z"):
        run(f"{HERE}:Refusing")


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


PRINTING = """
import numpy as np

print("imported")

class Mine:
    def __init__(self, setting):
        print("made")
    def arrived(self, pages):
        print("arrived")
    def touch(self, view):
        {touch}
    def left(self, pages):
        pass
    def victims(self, view, pool, count, spared):
        return np.flatnonzero(view.evictable if spared is None else view.evictable & ~spared)[:count]
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch) -> Iterator[Any]:
    """Return a function that writes the module of a plug-in and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")  # for processes that are started
    monkeypatch.chdir(tmp_path)
    get_reusable_executor().shutdown(wait=True)  # processes of an earlier test know another path
    number = len(list(Path(tmp_path).parent.iterdir()))

    def write(touch: str) -> str:
        module = f"plug_in_{number}_{abs(hash(touch))}"
        (tmp_path / f"{module}.py").write_text(PRINTING.format(touch=touch))
        return f"{module}:Mine"

    yield write
    get_reusable_executor().shutdown(wait=True)


SMALL = ["smollm2_cpu", "--set", "budget.pages_per_layer=[24, 32]", "--set", "trace.num_steps=12", "--no-figures"]


@pytest.mark.parametrize("command", [["run"], ["sweep", "--workers", "1"], ["sweep", "--workers", "2"]])
def test_json_is_json_whatever_a_plug_in_prints(capfd, plug_in, command: list[str]) -> None:
    name = plug_in("print('touched')")
    options = ["--set", f'run.policies=["lru", "{name}"]', "--json", "-o", "out"]
    assert run_command([*command, *SMALL, *options]) == 0
    printed = capfd.readouterr().out
    assert [cell["policy"] for cell in json.loads(printed)["cells"]] == ["lru", name] * 2


def test_json_is_json_whatever_a_subprocess_of_a_plug_in_prints(plug_in) -> None:
    name = plug_in("import os, subprocess; subprocess.run(['echo', 'touched']); os.write(1, b'raw')")
    options = ["--set", f'run.policies=["lru", "{name}"]', "--json", "-o", "out"]
    command = [sys.executable, "-m", "kvsim", "run", *SMALL, *options]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert len(json.loads(ended.stdout)["cells"]) == 4
    assert "touched\n" in ended.stderr and "raw" in ended.stderr


def test_json_is_json_in_processes_of_a_long_run(capfd, plug_in, monkeypatch) -> None:
    monkeypatch.setattr("kvsim.experiments.decode.simulate.MIN_DECISIONS_FOR_PROCESSES", 1)
    name = plug_in("print('touched')")
    assert run_command(["run", *SMALL, "--set", f'run.policies=["lru", "{name}"]', "--json", "-o", "out"]) == 0
    assert len(json.loads(capfd.readouterr().out)["cells"]) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_command_reports_a_plug_ins_error_in_a_line_and_its_frames(capfd, plug_in, workers: int) -> None:
    name = plug_in("view.scores[0] = 1.0")
    options = ["--set", f'run.policies=["lru", "{name}"]', "-o", "out"]
    assert run_command(["run", *SMALL, *options]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line not in ("imported", "made", "arrived")]
    assert lines[0].startswith(f"policy '{name}': step 0, layer 0: touch raised ValueError: assignment destination")
    assert len(lines) == 3
    assert run_command(["sweep", *SMALL, *options, "--workers", str(workers)]) == 2
    captured = capfd.readouterr()
    assert f"policy '{name}': step 0, layer 0: touch raised ValueError: " in captured.out
    (failed,) = Path("out").rglob("failed.txt")
    assert "view.scores[0] = 1.0" in failed.read_text()


@pytest.mark.parametrize("touch", ["view.misses[:] = 0", "raise KeyError(1)", "1 / 0", "raise SystemExit"])
def test_policy_test_finds_it(capfd, plug_in, touch: str) -> None:
    name = plug_in(touch)
    assert run_command(["policy", "test", name]) == 2
    captured = capfd.readouterr()
    assert "FAILED  runs in a pool that all layers share" in captured.out
    lines = [line for line in captured.err.splitlines() if line not in ("imported", "made", "arrived")]
    assert all(line.startswith(f"policy {name}: ") for line in lines)


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
