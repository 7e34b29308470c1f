"""The deciding half of a serving engine: requests in, steps out. What runs them, and how long, is for the caller."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kvsim.errors import PolicyError
from kvsim.policies.schedulers.base import Scheduler
from kvsim.policies.schedulers.connector import Connector
from kvsim.policies.schedulers.plan import StepBudget, StepPlan, StepWork
from kvsim.policies.schedulers.request import Request
from kvsim.policies.schedulers.state import Blocks, EngineState
from kvsim.types import IntArray


class Step(Protocol):
    """One step as it was scheduled. Requests are integers, the places that the caller gave them."""

    @property
    def work(self) -> StepWork:
        """What the forward pass has to do; all zeros if nothing is scheduled."""

    @property
    def scheduled(self) -> Sequence[tuple[int, int]]:
        """The batch in order: request and tokens."""

    @property
    def admitted(self) -> Sequence[tuple[int, int]]:
        """Requests that left the queue, in order, with the tokens that the prefix cache had of them."""

    @property
    def preempted(self) -> Sequence[int]:
        """Requests that were preempted, in order."""

    @property
    def evicted(self) -> Sequence[int]:
        """Keys of blocks that were evicted since the step before was scheduled, in order."""

    @property
    def stored(self) -> Sequence[int]:
        """Keys of blocks that were cached since the step before was scheduled, in order."""


class Outcome(Protocol):
    """What came of one step."""

    @property
    def sampled(self) -> Sequence[int]:
        """Requests that got a token, in the order of the batch."""

    @property
    def sampled_array(self) -> IntArray:
        """The same as an array; it may be overwritten by later steps."""

    @property
    def finished(self) -> Sequence[int]:
        """Those for which it was the last one."""


class Core(Protocol):
    """Requests, blocks and a scheduler, driven from outside: ``add``, then ``schedule`` and ``update`` once a step.

    An engine that schedules asynchronously calls ``schedule`` for step k + 1 before ``update`` for step k; more than
    two steps are never in flight. A step may be read until its ``update``.
    """

    @property
    def num_unfinished(self) -> int:
        """Requests that were added and are not finished."""

    @property
    def num_running(self) -> int:
        """Requests that hold blocks."""

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody holds, cached ones included."""

    @property
    def num_transfers(self) -> int:
        """Transfers between the tiers that have not ended."""

    def add(self, request: int) -> None:
        """Let a request arrive."""

    def schedule(self) -> Step:
        """Decide the next step."""

    def update(self) -> Outcome:
        """Take in what the forward pass sampled of the oldest step that was scheduled and not updated yet."""


@dataclass(frozen=True, slots=True)
class PlainStep:
    """A step of `PlainCore`."""

    plan: StepPlan
    sampling: set[Request]
    work: StepWork
    evicted: Sequence[int]
    stored: Sequence[int]

    @property
    def scheduled(self) -> list[tuple[int, int]]:
        """Request and tokens, in the order of the batch."""
        return [(request.index, tokens) for request, tokens in self.plan.scheduled.items()]

    @property
    def admitted(self) -> list[tuple[int, int]]:
        """Request and hit tokens, in the order of admission."""
        return [(request.index, hit_tokens) for request, hit_tokens in self.plan.admitted]

    @property
    def preempted(self) -> list[int]:
        """Preempted requests, in order."""
        return [request.index for request in self.plan.preempted]


@dataclass(frozen=True, slots=True)
class PlainOutcome:
    """An outcome of `PlainCore`."""

    sampled: list[int]
    finished: list[int]

    @property
    def sampled_array(self) -> IntArray:
        """The same as `sampled`, as an array."""
        return np.array(self.sampled, dtype=np.int64)


class PlainCore:
    """A core in plain Python: any scheduler over any block tables.

    Parameters
    ----------
    scheduler
        Who decides.
    budget
        The limits of each step.
    blocks
        Block tables that know the requests by their places in `requests`.
    requests
        All requests that may come, each with its place as its index.
    is_async
        Whether steps are scheduled one ahead (``async_scheduling``).
    offload
        Tiers below the device, over the same block tables.
    """

    __slots__ = ("_in_flight", "_num_unfinished", "budget", "offload", "requests", "scheduler", "state")

    def __init__(
        self,
        scheduler: Scheduler,
        budget: StepBudget,
        blocks: Blocks,
        requests: Sequence[Request],
        *,
        is_async: bool = False,
        offload: Connector | None = None,
    ) -> None:
        self.offload = offload
        self.scheduler = scheduler
        self.budget = budget
        self.requests = requests
        self.state = EngineState(blocks, scheduler.queue(), is_async=is_async, connector=offload)
        self._num_unfinished = 0
        self._in_flight: deque[PlainStep] = deque()

    @property
    def num_unfinished(self) -> int:
        """Requests that were added and are not finished."""
        return self._num_unfinished

    @property
    def num_running(self) -> int:
        """Requests that hold blocks."""
        return len(self.state.running)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue, and those that load."""
        return len(self.state.waiting) + len(self.state.holding)

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return self.state.blocks.num_free

    @property
    def num_transfers(self) -> int:
        """Transfers between the tiers that have not ended."""
        return 0 if self.offload is None else self.offload.num_under_way

    def add(self, request: int) -> None:
        """Let a request arrive."""
        self.state.add(self.requests[request])
        self._num_unfinished += 1

    def schedule(self) -> PlainStep:
        """Decide the next step.

        Raises
        ------
        PolicyError
            If the scheduler asked for what the budget or the state does not allow.
        """
        plan = self.scheduler.schedule(self.state, self.budget)
        evicted, stored = self.state.blocks.take_events()
        if self.offload is not None:
            self.offload.scheduled(
                plan.scheduled.items(), admitted=plan.admitted, preempted=plan.preempted, evicted=evicted
            )
        sampling, work = self.state.begin(plan)
        if work.tokens > self.budget.tokens or len(self.state.running) > self.budget.sequences:
            name = getattr(self.scheduler, "shown_name", f"scheduler {type(self.scheduler).__name__}")
            raise PolicyError(
                f"{name}: {work.tokens} tokens, {len(self.state.running)} requests "
                f"running; a step has {self.budget.tokens} tokens and {self.budget.sequences} requests at most"
            )
        step = PlainStep(plan, sampling, work, evicted, stored)
        self._in_flight.append(step)
        return step

    def update(self) -> PlainOutcome:
        """Take in what the forward pass sampled of the oldest step that was scheduled and not updated yet."""
        step = self._in_flight.popleft()
        sampled, finished = self.state.deliver(step.plan, step.sampling)
        self._num_unfinished -= len(finished)
        if self.offload is not None:
            for request in finished:
                self.offload.finished(request.index)
        return PlainOutcome([request.index for request in sampled], [request.index for request in finished])
