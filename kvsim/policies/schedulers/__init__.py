"""Schedulers of a serving engine: which requests compute how many tokens in the next step.

A scheduler keeps nothing between calls: ``schedule(state, budget)`` reads and changes an `EngineState` through its
methods and returns a `StepPlan`. It sees no clock, no costs and nothing of the future. Whoever drives it, the simulator
or the replay of a recorded schedule, calls a `Core` at two points of each step: ``schedule`` before the forward pass
and ``update`` after it.
"""

from kvsim.policies.schedulers.base import Scheduler
from kvsim.policies.schedulers.core import Core, Outcome, PlainCore, Step
from kvsim.policies.schedulers.plan import StepBudget, StepPlan, StepWork
from kvsim.policies.schedulers.queues import FcfsQueue, PriorityQueue, Waiting
from kvsim.policies.schedulers.registry import SCHEDULERS, find_scheduler, make_scheduler
from kvsim.policies.schedulers.request import Request
from kvsim.policies.schedulers.state import Blocks, EngineState
from kvsim.policies.schedulers.table import RequestTable

__all__ = [
    "SCHEDULERS",
    "Blocks",
    "Core",
    "EngineState",
    "FcfsQueue",
    "Outcome",
    "PlainCore",
    "PriorityQueue",
    "Request",
    "RequestTable",
    "Scheduler",
    "Step",
    "StepBudget",
    "StepPlan",
    "StepWork",
    "Waiting",
    "find_scheduler",
    "make_scheduler",
]
