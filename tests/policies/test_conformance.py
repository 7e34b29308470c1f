"""The tests that a plug-in's author runs: built-in policies pass them all, and each fault is found by its own check."""

from __future__ import annotations

import random
import time
from typing import Any, ClassVar

import numpy as np
import pytest

from kvsim.errors import ScenarioError
from kvsim.policies import ADMISSIONS, POLICIES, PREFETCHERS, Plan, Setting, View
from kvsim.policies.testing.conformance import check_policy
from kvsim.types import PageIds
from tests.accesses import OwnPolicy

HERE = __name__


def faults(name: str, arguments: dict[str, Any] | None = None) -> dict[str, str]:
    return {check.name: check.problem for check in check_policy(name, arguments or {}) if check.problem}


@pytest.mark.parametrize("name", POLICIES)
def test_every_built_in_policy_passes(name: str) -> None:
    assert faults(name) == {}


@pytest.mark.parametrize("prefetch", PREFETCHERS)
@pytest.mark.parametrize("admission", ADMISSIONS)
def test_every_composition_passes(prefetch: str, admission: str) -> None:
    assert faults("lru", {"prefetch": prefetch, "admission": admission}) == {}


class Smallest(OwnPolicy):
    """Evicts the smallest ids that may leave, of its own layer's pages first; what others below spoil."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def candidates(self, view: View) -> PageIds:
        pages = np.flatnonzero(view.evictable)
        return pages if self.setting.partition == "shared" else pages[self.setting.grid.layer_of(pages) == view.layer]

    def decide(self, view: View) -> Plan:
        return Plan(victims=self.candidates(view)[: max(0, -view.free_slots)])


class Misspelt(Smallest):
    attends = "selections"  # type: ignore[assignment]


class PinBlind(Smallest):
    def candidates(self, view: View) -> PageIds:
        return np.flatnonzero(view.resident)


class LayerBlind(Smallest):
    def candidates(self, view: View) -> PageIds:
        return np.flatnonzero(view.evictable)


class BatchBlind(Smallest):
    def candidates(self, view: View) -> PageIds:
        grid = self.setting.grid
        first_sequence = super().candidates(view)
        return first_sequence[first_sequence < grid.num_layers * grid.pages_per_layer]


class Greedy(Smallest):
    def decide(self, view: View) -> Plan:
        wanted = np.flatnonzero(view.prefetchable)[:1]
        return Plan(victims=self.candidates(view)[: max(0, wanted.size - view.free_slots)], prefetches=wanted)


class Restless(Smallest):
    def decide(self, view: View) -> Plan:
        return Plan(victims=self.candidates(view)[: max(1, -view.free_slots)])


class Dicing(Smallest):
    def candidates(self, view: View) -> PageIds:
        pages = super().candidates(view).tolist()
        random.shuffle(pages)
        return np.array(pages, dtype=np.int64)


class Clocked(Smallest):
    def candidates(self, view: View) -> PageIds:
        time.monotonic()
        return super().candidates(view)


class Writing(Smallest):
    def decide(self, view: View) -> Plan:
        view.selected[:] = 0
        return super().decide(view)


class Keeping(Smallest):
    last: Any = None

    def candidates(self, view: View) -> PageIds:
        pages = super().candidates(view)
        last, self.last = self.last, view.scores
        return pages if last is None or float(last.sum()) > 0 else pages[::-1]


class Sharing(Smallest):
    count: ClassVar[list[int]] = [0]

    def start(self, resident: PageIds) -> None:
        self.count[0] = 0

    def candidates(self, view: View) -> PageIds:
        self.count[0] += 1
        return super().candidates(view)[:: 1 if self.count[0] % 2 else -1]


class Refusing(Smallest):
    def __init__(self, setting: Setting) -> None:
        if setting.partition != "shared":
            raise ValueError("needs the partition 'shared'")
        super().__init__(setting)


@pytest.mark.parametrize("name", ["Smallest", "Refusing"])
def test_a_plain_policy_passes_and_may_refuse_a_partition(name: str) -> None:
    assert faults(f"{HERE}:{name}") == {}


@pytest.mark.parametrize(
    ("name", "check", "told"),
    [
        ("PinBlind", "runs in a pool that all layers share", "may not leave"),
        ("LayerBlind", "runs with a pool a layer", "without a slot"),
        ("BatchBlind", "runs with a batch of two", "without a slot"),
        ("Greedy", "runs with a quota of none", "the quota is 0"),
        ("Restless", "moves nothing where everything fits", "victims"),
        ("Dicing", "decides the same again, whatever global random numbers", "same seed differ"),
        ("Clocked", "reads no clock", "time.monotonic is read"),
        ("Writing", "runs in a pool that all layers share", "read-only"),
        ("Keeping", "keeps no array of the view after the call", "copy what you keep"),
        ("Sharing", "shares nothing with another instance", "keep state in self"),
    ],
)
def test_fault_is_found_by_its_check_and_told_in_a_line(name: str, check: str, told: str) -> None:
    found = faults(f"{HERE}:{name}")
    assert told in found[check]
    assert "\n" not in found[check]


def test_class_that_states_what_no_policy_can_is_refused() -> None:
    with pytest.raises(ScenarioError, match="attends is 'selections'; it should be one of 'selection'"):
        list(check_policy(f"{HERE}:Misspelt", {}))


def test_class_that_is_no_policy_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(ScenarioError, match="it lacks attends"):
        list(check_policy("kvsim.types:PageGrid", {}))


class TrialOfAll:
    """An admission of one's own: everything that misses is on trial."""

    def __init__(self, setting: Setting) -> None:
        self._trial: dict[int, None] = {}
        self._layer_of = setting.grid.layer_of
        self._is_shared = setting.partition == "shared"

    def touch(self, view: View) -> None:
        self._trial |= dict.fromkeys(view.misses.tolist())

    def first_out(self, view: View, pool: int, count: int, spared: Any) -> PageIds:
        found = np.array([page for page in self._trial if view.evictable[page]], dtype=np.int64)
        if spared is not None:
            found = found[~spared[found]]
        found = found[:count] if self._is_shared else found[self._layer_of(found) == pool][:count]
        self.left(found)
        return found

    def left(self, victims: PageIds) -> None:
        for page in victims.tolist():
            self._trial.pop(page, None)


def test_parts_of_ones_own_are_tested_with_lru() -> None:
    assert faults(f"{HERE}:TrialOfAll") == {}
    assert faults("kvsim.policies.prefetchers.previous_step:PreviousStep") == {}
    assert faults("kvsim.policies.evictors.fifo:Fifo") == {}
