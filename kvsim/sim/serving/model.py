"""The elements wired: one engine that serves all requests of some sessions."""

from __future__ import annotations

from dataclasses import dataclass

import simpy

from kvsim.caches.tiers.offload import Kind
from kvsim.policies.schedulers import Core
from kvsim.policies.schedulers.compiled import CompiledCore
from kvsim.sim.serving.arrivals import Arrivals, Sessions
from kvsim.sim.serving.costs import StepCosts
from kvsim.sim.serving.engine import Engine
from kvsim.sim.serving.fast_path import FastEngine
from kvsim.sim.serving.link import BlockLink
from kvsim.sim.serving.monitor import Monitor
from kvsim.sim.serving.sink import Sink
from kvsim.sim.serving.tiers import Tiers, TierSetup


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """All requests served."""

    requests: Sink
    """What became of each."""
    monitor: Monitor
    end_s: float
    """When the last one was done."""
    links: dict[Kind, BlockLink]
    """What each kind of transfer between tiers did."""


def simulate_serving(
    core: Core,
    sessions: Sessions,
    costs: StepCosts,
    *,
    is_async: bool = False,
    tiers: TierSetup | None = None,
) -> Served:
    """Serve every request, and return what became of it.

    Parameters
    ----------
    core
        Requests, blocks and scheduler, before the first arrival; it numbers requests as `sessions` does.
    is_async
        Whether steps are scheduled one ahead, as the core does.
    tiers
        Tiers below the device, which the core must know too.

    Raises
    ------
    PolicyError
        If the scheduler leaves requests waiting for ever.
    """
    env = simpy.Environment()
    done = env.event()

    def finished(request: int) -> None:
        arrivals.finished(request)
        if sink.num_finished == sessions.num_requests:
            done.succeed()

    sink = Sink(sessions.num_requests, finished)
    monitor = Monitor(core.num_free_blocks)
    links = None if tiers is None else Tiers(env, tiers)
    engine = (
        FastEngine(env, core, costs, sink, monitor, is_async=is_async)
        if isinstance(core, CompiledCore)  # which knows no tiers
        else Engine(env, core, costs, sink, monitor, is_async=is_async, tiers=links)
    )
    arrivals = Arrivals(env, sessions, engine.submit)
    env.run(until=done)
    monitor.idle(env.now, core.num_free_blocks)
    return Served(requests=sink, monitor=monitor, end_s=env.now, links={} if links is None else dict(links.links))
