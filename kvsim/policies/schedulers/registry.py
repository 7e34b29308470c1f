"""The built-in schedulers by name. Adding one: a file beside this and a line here; a plug-in needs neither."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from kvsim.errors import PolicyError, ScenarioError
from kvsim.policies.attribution import construct, is_own
from kvsim.policies.plug_ins import CalledWithCare
from kvsim.policies.registry import load_class
from kvsim.policies.schedulers.base import Scheduler
from kvsim.policies.schedulers.plan import StepPlan

_PARTS = ("queue", "schedule")


@dataclass(frozen=True, slots=True)
class SchedulerEntry:
    """One built-in scheduler."""

    path: str
    """``module:Class``."""
    source: str
    """The paper or system."""


SCHEDULERS: dict[str, SchedulerEntry] = {
    "vllm": SchedulerEntry("kvsim.policies.schedulers.vllm:Vllm", "vLLM 0.32.0; Kwon and others, SOSP 2023"),
    "static": SchedulerEntry("kvsim.policies.schedulers.static:Static", "request-level batching; Orca, OSDI 2022"),
}


def find_scheduler(name: str) -> type[Scheduler]:
    """Return the scheduler class called `name`: a built-in, or ``package.module:Class``.

    Raises
    ------
    ScenarioError
        If there is none, or the class lacks a part of the protocol.
    """
    if ":" not in name and name not in SCHEDULERS:
        near = difflib.get_close_matches(name, SCHEDULERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(SCHEDULERS)}"
        raise ScenarioError(f"unknown scheduler {name!r}{hint} (or package.module:Class)")
    what = f"scheduler {name!r}"
    loaded: type[Scheduler] = load_class(SCHEDULERS[name].path if name in SCHEDULERS else name, what)
    missing = [part for part in _PARTS if not hasattr(loaded, part)]
    if missing:
        raise ScenarioError(f"{what}: not a scheduler class; it lacks {', '.join(missing)}")
    return loaded


def make_scheduler(name: str, arguments: Mapping[str, Any] | None = None) -> Scheduler:
    """Return the scheduler called `name`, made with these keyword arguments.

    Raises
    ------
    ScenarioError
        If there is none of this name, or an argument is unknown or impossible.
    PolicyError
        If the constructor of a plug-in raises anything else.
    """
    scheduler_class, what = find_scheduler(name), f"scheduler {name!r}"
    if not is_own(scheduler_class):
        made = construct(what, scheduler_class, **(arguments or {}))
        methods = {"queue": None, "schedule": partial(_checked_plan, what)}
        return cast("Scheduler", CalledWithCare(made, what, methods))
    try:
        return scheduler_class(**(arguments or {}))
    except (TypeError, ValueError) as problem:
        raise ScenarioError(f"scheduler {name!r}: {problem}") from None


def _checked_plan(what: str, plan: Any, *arguments: Any) -> StepPlan:
    del arguments
    if not isinstance(plan, StepPlan):
        raise PolicyError(f"{what}: schedule returns a {type(plan).__name__}, where a StepPlan is needed")
    return plan
