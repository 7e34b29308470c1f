"""What a scheduler is: any class of this shape can be plugged in."""

from __future__ import annotations

from typing import Protocol

from kvsim.policies.schedulers.plan import StepBudget, StepPlan
from kvsim.policies.schedulers.queues import Waiting
from kvsim.policies.schedulers.state import EngineState


class Scheduler(Protocol):
    """Decides what the next step computes; `kvsim.policies.schedulers.SCHEDULERS` names the built-in ones.

    It keeps nothing between two calls, and knows neither clock nor costs: its decisions depend on its arguments only.
    """

    def queue(self) -> Waiting:
        """Return an empty queue for the requests that wait, in the order in which this scheduler serves them."""

    def schedule(self, state: EngineState, budget: StepBudget) -> StepPlan:
        """Return the plan of the next step.

        Requests enter the batch with the tokens that they compute, after `EngineState.extend` or `EngineState.admit`
        gave them room; `EngineState.preempt` makes room. The plan names all of it.
        """
