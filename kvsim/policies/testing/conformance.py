"""What every policy must keep to, checked on any class: the tests that the author of a plug-in runs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from kvsim.errors import KvsimError, ScenarioError
from kvsim.policies.base import Policy, Setting
from kvsim.policies.make import PARTS, find_policy, make_policy
from kvsim.policies.registry import load_class
from kvsim.policies.residency import Decision
from kvsim.policies.testing.driving import MadeAccesses, digest_of, drive, setting_for
from kvsim.types import Partition

_CLOCKS = ("time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that a policy must keep to, and what it does instead."""

    name: str
    problem: str | None
    """One line; None where it keeps to it."""


def policy_for(name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the policy and its arguments by which a class is tested: a prefetcher or an admission goes with ``lru``.

    Raises
    ------
    ScenarioError
        If there is no such class.
    """
    if ":" in name:
        loaded = load_class(name, f"policy {name!r}")
        if not hasattr(loaded, "decide") and not hasattr(loaded, "victims"):
            for role, argument in (("prefetcher", "prefetch"), ("admission", "admission")):
                if hasattr(loaded, PARTS[role][-2]) and hasattr(loaded, PARTS[role][1]):
                    return "lru", {**arguments, argument: name}
    find_policy(name)
    return name, dict(arguments)


def check_policy(name: str, arguments: Mapping[str, Any]) -> Iterator[Check]:
    """Yield the outcome of each check of the policy called `name`; the first that fails to run at all ends them.

    Raises
    ------
    ScenarioError
        If there is no such policy, or it does not take the arguments.
    """
    name, arguments = policy_for(name, arguments)
    kind = find_policy(name)

    def make(setting: Setting) -> Policy:
        return make_policy(name, setting, arguments)

    bench = _Bench(make, everything=kind.attends == "everything", holds_all=kind.holds == "everything")
    for what, run in (
        ("runs in a pool that all layers share", lambda: bench.runs()),
        ("runs with a pool a layer", lambda: bench.runs(partition="per_layer")),
        ("runs with a batch of two", lambda: bench.runs(num_sequences=2)),
        ("runs with the least slots that hold a selection", lambda: bench.runs(frac=0.0)),
        ("runs with a quota of none", lambda: bench.runs(quota_pages=0)),
        ("moves nothing where everything fits", bench.moves_nothing),
        ("decides the same again, whatever global random numbers", bench.repeats),
        ("reads no clock", bench.reads_no_clock),
        ("keeps no array of the view after the call", bench.keeps_nothing),
        ("shares nothing with another instance", bench.shares_nothing),
    ):
        yield _check(what, run)


_Make = Callable[[Setting], Policy]


class _Bench:
    def __init__(self, make: _Make, *, everything: bool, holds_all: bool) -> None:
        self._make = make
        self._everything = everything
        self._holds_all = holds_all

    def accesses(self, num_sequences: int = 1, seed: int = 1) -> MadeAccesses:
        return MadeAccesses(
            num_steps=24,
            num_layers=3,
            num_sequences=num_sequences,
            pages_per_layer=20,
            k_pages=6,
            everything=self._everything,
            seed=seed,
        )

    def start(
        self,
        accesses: MadeAccesses,
        *,
        partition: Partition = "shared",
        frac: float = 0.4,
        quota_pages: int = 4,
        scribbles: bool = False,
    ) -> Iterator[Decision]:
        grid = accesses.grid
        others = 6 if partition == "per_layer" else 3  # of a layer that is not read now: sink, window and open page
        least = grid.num_sequences * (6 + others * (grid.num_layers - 1))
        if self._everything:
            least = grid.num_pages * 2 // 3 + 2 * grid.num_sequences * grid.num_layers
        capacity = grid.num_pages if self._holds_all else max(least, int(frac * grid.num_pages))
        setting = setting_for(accesses, capacity_pages=capacity, partition=partition, quota_pages=quota_pages, seed=7)
        return drive(self._make(setting), setting, accesses, scribbles=scribbles)

    def runs(self, *, num_sequences: int = 1, **setting: Any) -> str | None:
        try:
            run = self.start(self.accesses(num_sequences), **setting)
        except ScenarioError as problem:
            # A policy may refuse a partition as such, with a word why; it may not fail on the way.
            return None if "partition" in setting and "partition" in str(problem) else str(problem)
        digest_of(run)
        return None

    def moves_nothing(self) -> str | None:
        accesses = self.accesses()
        for decision in self.start(accesses, frac=1.0):
            if decision.victims.size or decision.prefetches.size:
                return f"{decision.victims.size} victims, {decision.prefetches.size} prefetches though all pages fit"
        return None

    def repeats(self) -> str | None:
        digests = []
        with _other_random_numbers():
            for seed in (1, 2):
                random.seed(seed)
                np.random.seed(seed)
                digests.append(digest_of(self.start(self.accesses(2))))
        if digests[0] == digests[1]:
            return None
        return "two runs with the same seed differ: draw from setting.seed only, and iterate over no set"

    def reads_no_clock(self) -> str | None:
        read: list[str] = []
        with _watched(read):
            digest_of(self.start(self.accesses()))
        return f"time.{read[0]} is read: a decision depends on no clock" if read else None

    def keeps_nothing(self) -> str | None:
        plain, scribbled = (digest_of(self.start(self.accesses(2), scribbles=choice)) for choice in (False, True))
        return None if plain == scribbled else "decisions change with arrays of an earlier view: copy what you keep"

    def shares_nothing(self) -> str | None:
        alone = [digest_of(self.start(self.accesses(seed=seed))) for seed in (1, 2)]
        left, right = (self.start(self.accesses(seed=seed)) for seed in (1, 2))
        pairs = list(zip(left, right, strict=True))
        together = [digest_of(iter(decisions)) for decisions in zip(*pairs, strict=True)]
        return None if alone == together else "a second instance changes what the first decides: keep state in self"


def _check(name: str, run: Callable[[], str | None]) -> Check:
    try:
        problem = run()
    except KvsimError as error:
        problem = str(error).partition("\n")[0]  # the lines of a plug-in's own code follow
    return Check(name=name, problem=problem)


@contextmanager
def _watched(read: list[str]) -> Iterator[None]:
    def watch(name: str, clock: Callable[[], Any]) -> Callable[[], Any]:
        def watched() -> Any:
            read.append(name)
            return clock()

        return watched

    with ExitStack() as patches:
        for name in _CLOCKS:
            patches.enter_context(mock.patch.object(time, name, watch(name, getattr(time, name))))
        yield


@contextmanager
def _other_random_numbers() -> Iterator[None]:
    """Leave the global generators as they were."""
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
