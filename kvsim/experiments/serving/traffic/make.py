"""From a scenario to its traffic: requests, their blocks, and when they arrive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvsim.caches.blocks import ChainTable
from kvsim.experiments.serving.scenario import ArrivalChoice, Serving
from kvsim.experiments.serving.traffic.generate import draw, generate_turns
from kvsim.experiments.serving.traffic.trace import read_turns
from kvsim.experiments.serving.traffic.turns import Turns
from kvsim.policies.schedulers import RequestTable
from kvsim.sim.serving import Sessions
from kvsim.types import FloatArray

_STREAMS = ("arrivals", "lengths", "pauses", "steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests with their blocks, and when they arrive."""

    requests: RequestTable
    chains: ChainTable
    sessions: Sessions
    num_dropped: int
    num_cut: int
    reading: str
    """How a trace was read, for people."""


def random_of(seed: int, name: str, draw: int = 0) -> np.random.Generator:
    """Return the generator of one source of randomness: equal seeds give equal numbers, whatever else is drawn.

    Parameters
    ----------
    draw
        Which of several draws from that source.
    """
    return np.random.default_rng([seed, _STREAMS.index(name), *([draw] if draw else [])])


def make_traffic(scenario: Serving, base_dir: Path | None) -> Traffic:
    """Return the traffic of one cell.

    Raises
    ------
    TraceError
        If the trace cannot be read or served.
    ScenarioError
        If the engine does not take what is to be generated.
    """
    turns = make_turns(scenario, base_dir)
    return with_times(turns, scenario.arrivals, scenario.run.seed)


def make_turns(scenario: Serving, base_dir: Path | None) -> Turns:
    """Return the requests without their times."""
    random = random_of(scenario.run.seed, "lengths")
    if scenario.trace is not None:
        needs_times = scenario.arrivals.process == "trace"
        return read_turns(scenario.trace, scenario.engine, base_dir, random, needs_times=needs_times)
    assert scenario.generated is not None, "a scenario has one of them"
    return generate_turns(scenario.generated, scenario.engine, random)


def with_times(turns: Turns, arrivals: ArrivalChoice, seed: int) -> Traffic:
    """Return requests with their times; rates only stretch them, so equal seeds give comparable traffic."""
    num_requests, num_sessions = turns.prompt_tokens.size, turns.first.size - 1
    pause_s = draw(arrivals.think_mean_s, arrivals.think_cv, num_requests, random_of(seed, "pauses"))
    if turns.delay_s is not None:
        pause_s = np.where(np.isnan(turns.delay_s), pause_s, turns.delay_s)
    if arrivals.process != "closed-loop":
        pause_s[turns.first[:-1]] = 0.0
    places = np.arange(num_requests)
    return Traffic(
        requests=RequestTable(
            prompt_tokens=turns.prompt_tokens,
            max_tokens=turns.output_tokens,
            stop_tokens=turns.prompt_tokens + turns.output_tokens,
            priority=np.zeros_like(places),
            arrival=places,
            rank=places,
        ),
        chains=turns.chains,
        sessions=Sessions(
            first=turns.first,
            start_s=_starts_s(turns, arrivals, num_sessions, seed),
            pause_s=pause_s,
            num_users=arrivals.users or 0,
        ),
        num_dropped=turns.num_dropped,
        num_cut=turns.num_cut,
        reading=turns.reading,
    )


def _starts_s(turns: Turns, arrivals: ArrivalChoice, num_sessions: int, seed: int) -> FloatArray | None:
    if arrivals.process == "closed-loop":
        return None
    if arrivals.process == "trace":
        assert turns.start_s is not None, "a trace has been asked for its times"
        return turns.start_s / arrivals.speed
    assert arrivals.rate_hz is not None, "the scenario was checked"
    cv = 1.0 if arrivals.cv is None else arrivals.cv
    gaps = draw(1.0, cv, num_sessions, random_of(seed, "arrivals"))
    starts_s: FloatArray = np.cumsum(gaps) / arrivals.rate_hz
    return starts_s
