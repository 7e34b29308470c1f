"""The engine: steps of a core, one after another or one ahead, each as long as its work costs."""

from __future__ import annotations

import math
from collections import deque
from typing import NoReturn, Protocol

import simpy

from kvsim.errors import PolicyError
from kvsim.policies.schedulers import Core, Outcome, Step
from kvsim.sim.clock import Process
from kvsim.sim.serving.costs import StepCosts
from kvsim.sim.serving.monitor import Monitor
from kvsim.sim.serving.tiers import Tiers

EMPTY_STEP_S = 1e-3
"""How long vLLM's server sleeps after a step that scheduled nothing while requests are unfinished (``core.py``)."""

_FLIGHT_STEPS = 2
"""Steps in flight with asynchronous scheduling: one runs while the next is scheduled."""


class Output(Protocol):
    """Takes what the engine did; `kvsim.sim.serving.sink.Sink` is one."""

    def arrived(self, request: int, now_s: float) -> None:
        """Note that a request entered the queue."""

    def scheduled(self, step: Step, now_s: float) -> None:
        """Note a step that begins now."""

    def delivered(self, outcome: Outcome, now_s: float) -> None:
        """Note what came of a step that has ended."""


class Engine:
    """Runs the steps of a core; sleeps while there is nothing to do.

    Parameters
    ----------
    out
        Gets every arrival, step and outcome.
    is_async
        Whether the host schedules a step while the one before runs on the device: a step then takes as long as the
        slower of the two, and what it decides is one step behind in knowing what has finished.
    tiers
        Carries out transfers between the device and the tiers below it.
    """

    def __init__(
        self,
        env: simpy.Environment,
        core: Core,
        costs: StepCosts,
        out: Output,
        monitor: Monitor,
        *,
        is_async: bool = False,
        tiers: Tiers | None = None,
    ) -> None:
        self._tiers = tiers
        self._env = env
        self._core = core
        self._costs = costs
        self._out = out
        self._monitor = monitor
        self._wake = env.event()
        self._is_asleep = False
        self._is_async = is_async
        env.process(self._steps())

    def submit(self, request: int) -> None:
        """Take a request into the queue."""
        self._core.add(request)
        self._out.arrived(request, self._env.now)
        self._monitor.arrived(self._env.now)
        if self._is_asleep:
            self._is_asleep = False
            self._wake.succeed()

    def _steps(self) -> Process[None]:
        return self._run_ahead() if self._is_async else self._run()

    def _run(self) -> Process[None]:
        """Schedule, run, take in, and again."""
        env, core = self._env, self._core
        while True:
            if core.num_unfinished == 0:
                yield self._sleep()
            step = self._schedule()
            if self._tiers is not None:
                yield from self._flush(self._tiers)
            if step.work.requests:
                host_s, forward_s = self._costs.step_s(step.work)
                yield env.timeout(host_s + forward_s)
            else:
                self._check_progress(step)
                yield self._pass_empty_steps()
            self._deliver()

    def _run_ahead(self) -> Process[None]:
        """Schedule one step ahead of the device; a step begins when the one before ends, or when it is scheduled."""
        env, core = self._env, self._core
        in_flight: deque[tuple[float, bool]] = deque()  # when each step ends, and whether it does anything
        device_free_s = 0.0
        while True:
            if core.num_unfinished == 0 and in_flight:
                yield from self._end(in_flight.popleft()[0])
                continue  # a request may have arrived meanwhile
            if core.num_unfinished == 0:
                yield self._sleep()
            step = self._schedule()
            if self._tiers is not None:
                yield from self._flush(self._tiers)
            has_work = step.work.requests > 0
            if has_work:
                host_s, forward_s = self._costs.step_s(step.work)
                yield env.timeout(host_s)
                device_free_s = max(device_free_s, env.now) + forward_s
            in_flight.append((device_free_s, has_work))
            if has_work and len(in_flight) < _FLIGHT_STEPS:
                continue
            end_s, had_work = in_flight.popleft()
            if not (has_work or had_work):
                self._check_progress(step)
            yield from self._end(end_s)
            if not has_work and core.num_unfinished:  # what came of the step may be scheduled after a pause
                yield env.timeout(EMPTY_STEP_S) if had_work else self._pass_empty_steps()

    def _schedule(self) -> Step:
        core, now_s = self._core, self._env.now
        self._is_asleep = False
        step = core.schedule()
        self._out.scheduled(step, now_s)
        self._monitor.step(now_s, step.work, core.num_running, core.num_waiting, core.num_free_blocks)
        return step

    def _end(self, end_s: float) -> Process[None]:
        """Wait for the end of the oldest step and take in what came of it."""
        if end_s > self._env.now:
            yield self._env.timeout(end_s - self._env.now)
        self._deliver()

    def _deliver(self) -> None:
        if self._tiers is not None:
            self._tiers.end_step()
        self._out.delivered(self._core.update(), self._env.now)

    def _flush(self, tiers: Tiers) -> Process[None]:
        """Begin the transfers of a step, and wait for those that read what it writes."""
        waits_for = tiers.begin_step()
        if waits_for is not None:
            yield waits_for

    def _pass_empty_steps(self) -> simpy.Event:
        """Wait through the steps that schedule nothing: to the first one after a transfer's end, or an arrival."""
        next_end_s = None if self._tiers is None else self._tiers.next_end_s()
        wait_s = 0.0 if next_end_s is None else next_end_s - self._env.now
        pause = self._env.timeout(EMPTY_STEP_S * max(math.ceil(wait_s / EMPTY_STEP_S), 1))
        self._wake = self._env.event()
        self._is_asleep = True
        return self._env.any_of([pause, self._wake])

    def _sleep(self) -> simpy.Event:
        if self._tiers is not None:
            self._tiers.hand_over_stores()
        self._monitor.idle(self._env.now, self._core.num_free_blocks)
        self._wake = self._env.event()
        self._is_asleep = True
        return self._wake

    def _check_progress(self, step: Step) -> None:
        if not step.preempted and not self._core.num_transfers:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise PolicyError(
            f"the scheduler leaves {self._core.num_unfinished} requests waiting for ever: none runs and none is "
            "scheduled; a request may need more blocks than there are"
        )
