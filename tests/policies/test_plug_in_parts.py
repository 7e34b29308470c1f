"""What prefetchers, admissions and complete policies of others do wrong is refused under their name."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import PolicyError, ScenarioError
from kvsim.policies import Plan, Setting
from tests.accesses import OwnPolicy
from tests.policies.plug_ins import ANYTHING, Good, outcome_of, run

HERE = __name__


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
    with pytest.raises(PolicyError, match=rf"\A{start} raised RuntimeError: not yet \(test_plug_in_parts.py, line"):
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


class Whole(OwnPolicy):
    """A whole policy that plans what a test puts here."""

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
    assert f"{method} raised LookupError: no such luck (test_plug_in_parts.py, line " in first
    assert [line.split(", in ")[1] for line in frames[::2]] == [method, "_fail"]


def test_a_refusal_in_the_constructor_is_its_message_alone() -> None:
    class Refusing(Whole):
        def __init__(self, setting: Setting) -> None:
            raise ValueError("needs an even number of pages")

    globals()["Refusing"] = Refusing
    with pytest.raises(ScenarioError, match=rf"\Apolicy '{HERE}:Refusing': needs an even number of pages\Z"):
        run(f"{HERE}:Refusing")
