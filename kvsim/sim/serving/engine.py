"""The engine: steps of a core, one after another or one ahead, each as long as its work costs."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import simpy

from kvsim.errors import PolicyError
from kvsim.policies.schedulers import Core, Outcome, Step
from kvsim.sim.clock import Process
from kvsim.sim.serving.costs import StepCosts
from kvsim.sim.serving.monitor import Monitor

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
    ) -> None:
        self._env = env
        self._core = core
        self._costs = costs
        self._out = out
        self._monitor = monitor
        self._wake = env.event()
        self._is_asleep = False
        env.process(self._run_ahead() if is_async else self._run())

    def submit(self, request: int) -> None:
        """Take a request into the queue."""
        self._core.add(request)
        self._out.arrived(request, self._env.now)
        self._monitor.arrived(self._env.now)
        if self._is_asleep:
            self._is_asleep = False
            self._wake.succeed()

    def _run(self) -> Process[None]:
        """Schedule, run, take in, and again."""
        env, core = self._env, self._core
        while True:
            if core.num_unfinished == 0:
                yield self._sleep()
            step = self._schedule()
            if step.work.requests:
                host_s, forward_s = self._costs.step_s(step.work)
                yield env.timeout(host_s + forward_s)
            else:
                self._check_progress(step)
                yield env.timeout(EMPTY_STEP_S)
            self._out.delivered(core.update(), env.now)

    def _run_ahead(self) -> Process[None]:
        """Schedule one step ahead of the device; a step begins when the one before ends, or when it is scheduled."""
        env, core = self._env, self._core
        ends_s: deque[float] = deque()
        device_free_s = 0.0
        while True:
            if core.num_unfinished == 0:
                while ends_s:
                    yield from self._finish(ends_s.popleft())
                yield self._sleep()
            step = self._schedule()
            if step.work.requests:
                host_s, forward_s = self._costs.step_s(step.work)
                yield env.timeout(host_s)
                device_free_s = max(device_free_s, env.now) + forward_s
            elif not ends_s:
                self._check_progress(step)
                yield env.timeout(EMPTY_STEP_S)
            ends_s.append(device_free_s)
            if len(ends_s) == _FLIGHT_STEPS:
                yield from self._finish(ends_s.popleft())

    def _schedule(self) -> Step:
        core, now_s = self._core, self._env.now
        step = core.schedule()
        self._out.scheduled(step, now_s)
        self._monitor.step(now_s, step.work, core.num_running, core.num_waiting, core.num_free_blocks)
        return step

    def _finish(self, end_s: float) -> Process[None]:
        """Wait for the end of the oldest step and take in what came of it."""
        if end_s > self._env.now:
            yield self._env.timeout(end_s - self._env.now)
        self._out.delivered(self._core.update(), self._env.now)

    def _sleep(self) -> simpy.Event:
        self._monitor.idle(self._env.now, self._core.num_free_blocks)
        self._wake = self._env.event()
        self._is_asleep = True
        return self._wake

    def _check_progress(self, step: Step) -> None:
        if not step.preempted:
            raise PolicyError(
                f"the scheduler leaves {self._core.num_unfinished} requests waiting for ever: none runs and none is "
                "scheduled; a request may need more blocks than there are"
            )
