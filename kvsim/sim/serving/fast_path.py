"""The fast path: an engine whose steps run in compiled code, one SimPy event for all of them up to the next event.

Between two arrivals, and until a request is done, an engine without tiers meets nobody. `kvsim.kernels.serving.engine`
goes through the same moments as `Engine`, sum by sum, and the SimPy process passes the time at once. Tests hold both to
the same times, to the last digit.
"""

from __future__ import annotations

import numpy as np
import simpy

from kvsim.kernels.arrays import ArrayTable
from kvsim.kernels.serving import engine as at
from kvsim.kernels.serving.engine import run
from kvsim.policies.schedulers.compiled import CompiledCore
from kvsim.sim.clock import Process
from kvsim.sim.serving.costs import StepCosts
from kvsim.sim.serving.engine import EMPTY_STEP_S, Engine
from kvsim.sim.serving.monitor import Monitor
from kvsim.sim.serving.sink import Sink
from kvsim.types import FloatArray, IntArray


class FastEngine(Engine):
    """Runs the steps of a compiled core, without tiers; the parameters are those of `Engine`."""

    def __init__(
        self,
        env: simpy.Environment,
        core: CompiledCore,
        costs: StepCosts,
        sink: Sink,
        monitor: Monitor,
        *,
        is_async: bool = False,
    ) -> None:
        self._numbers: IntArray = np.zeros(at.NUM_NUMBERS, dtype=np.int64)
        self._numbers[at.IS_ASYNC] = is_async
        self._times_s: FloatArray = np.zeros(at.NUM_TIMES)
        self._arrays = ArrayTable(at.NUM_ARRAYS, {at.NUMBERS: self._numbers, at.TIMES: self._times_s})
        self._addresses = (self._arrays.address, core.address, costs.address, sink.address, monitor.address)
        self._compiled, self._sink = core, sink
        super().__init__(env, core, costs, sink, monitor, is_async=is_async)

    def _steps(self) -> Process[None]:
        """Go on to the next event, and again."""
        env, numbers, times_s = self._env, self._numbers, self._times_s
        while True:
            self._is_asleep = False
            came = run(*self._addresses, env.now, env.peek())
            if times_s[at.NOW_S] > env.now:
                yield env.timeout(float(times_s[at.NOW_S]) - env.now)
            if came == at.WAITS:
                yield env.timeout(float(times_s[at.WAIT_S]))
            elif came == at.FINISHED:
                self._sink.finish(self._compiled.finished(int(numbers[at.STEP]), int(numbers[at.NUM_FINISHED])))
            elif came == at.IS_IDLE:
                yield self._sleep()
            elif came == at.IS_STUCK:
                self._refuse()
            else:
                yield env.timeout(EMPTY_STEP_S) if came == at.RAN_EMPTY else self._pass_empty_steps()
