"""One cell served in simulated time, and once more at either edge of its costs' interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.caches.tiers.offload import Offload
from kvsim.experiments.serving.core import make_blocks, make_core
from kvsim.experiments.serving.costs import Platform, interval_frac, parameters_of
from kvsim.experiments.serving.latency import RATES, TIMES, latency_figures, meets, request_rows
from kvsim.experiments.serving.scenario import Serving
from kvsim.experiments.serving.tiers import make_offload, tier_figures, transfer_times
from kvsim.experiments.serving.traffic import Traffic
from kvsim.experiments.serving.traffic.make import random_of
from kvsim.sim.serving import Served, StepCosts, TierSetup, simulate_serving
from kvsim.sim.serving.monitor import COLUMNS

FIGURES = (*TIMES, *RATES, "met_frac")
"""Figures with an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedCell:
    """What serving one cell once gave, simulated or for real."""

    figures: dict[str, float]
    rows: dict[str, NDArray[Any]]
    """A row a request."""
    timeline: dict[str, NDArray[Any]]
    """Means over stretches of time: requests that run and wait, the share of blocks in use, tokens."""
    gaps: dict[str, NDArray[Any]]
    """Times between tokens, and how often each occurred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRun(ServedCell):
    """What one simulation of one cell gave."""

    parts_s: dict[str, float]
    """Seconds of each part of all steps."""
    most: dict[str, float]
    """The greatest amount of each part in one step."""


def run_cell(
    scenario: Serving,
    traffic: Traffic,
    platform: Platform,
    *,
    scale: float = 1.0,
    draw: int = 0,
) -> CellRun:
    """Serve the traffic of one cell.

    Parameters
    ----------
    scale
        What the time of every step is multiplied with.
    draw
        Which draw of the spread of single steps.
    """
    engine = scenario.engine
    parameters = parameters_of(scenario, platform.memory.num_blocks)
    blocks = make_blocks(parameters, traffic.chains) if scenario.tiers else None
    offload = make_offload(scenario, platform, blocks, traffic.chains.lists()) if blocks else None
    core = make_core(
        parameters,
        traffic.requests,
        traffic.chains,
        engine.scheduler,
        engine.arguments or None,
        blocks=blocks,
        offload=offload,
    )
    random = random_of(scenario.run.seed, "steps", draw) if scenario.run.spread else None
    step_costs = StepCosts(platform.costs, scale=scale, random=random)
    served = simulate_serving(
        core,
        traffic.sessions,
        step_costs,
        is_async=engine.async_scheduling,
        tiers=TierSetup(offload=offload, transfer_s=transfer_times(scenario, platform)) if offload else None,
    )
    return _cell_run(scenario, traffic, served, step_costs, offload)


def with_interval(
    scenario: Serving, traffic: Traffic, platform: Platform, run: CellRun
) -> dict[str, tuple[float, float]]:
    """Return an interval of each figure: what it becomes where every step is as short, and as long, as costs may be."""
    edges = [
        run_cell(scenario, traffic, platform, scale=1 + share).figures
        for share in interval_frac(platform.costs, run.parts_s)
        if share
    ]
    runs = [run.figures, *edges]
    names = [name for name in FIGURES if name in run.figures and np.isfinite(run.figures[name])]
    return {name: (min(one[name] for one in runs), max(one[name] for one in runs)) for name in names}


def _cell_run(
    scenario: Serving, traffic: Traffic, served: Served, costs: StepCosts, offload: Offload | None
) -> CellRun:
    sink, monitor = served.requests, served.monitor
    rows = request_rows(
        arrival_s=sink.arrival_s,
        scheduled_s=sink.scheduled_s,
        first_token_s=sink.first_token_s,
        last_token_s=sink.last_token_s,
        prompt_tokens=traffic.requests.prompt_tokens,
        output_tokens=traffic.requests.max_tokens,
    )
    gap_s, gap_counts = sink.gap_histogram()
    rows |= {"itl_max_s": sink.longest_gap_s, "hit_tokens": sink.hit_tokens, "preemptions": sink.preemptions}
    if offload is not None:
        loaded = offload.loaded_tokens
        rows["loaded_tokens"] = np.array([loaded.get(place, 0) for place in range(sink.hit_tokens.size)])
    met = meets(rows, scenario.slo)
    rows |= {} if met is None else {"met": met}
    samples = dict(zip(COLUMNS, monitor.samples().T, strict=True))
    end_s = max(served.end_s, 1e-12)
    parts_s, is_async = costs.totals_s, scenario.engine.async_scheduling
    figures = latency_figures(rows, gap_s, gap_counts, scenario.slo) | {
        "steps": monitor.num_steps,
        "preemptions": int(sink.preemptions.sum()),
        "preempted_requests": int((sink.preemptions > 0).sum()),
        "hit_tokens": int(sink.hit_tokens.sum()),
        "hit_frac": float(sink.hit_tokens.sum() / traffic.requests.prompt_tokens.sum()),
        **tier_figures(served, rows, int(traffic.requests.prompt_tokens.sum())),
        "running_mean": float(samples["running"][-1]) / end_s,
        "running_peak": monitor.peak_running,
        "waiting_mean": float(samples["waiting"][-1]) / end_s,
        "waiting_peak": monitor.peak_waiting,
        "kv_used_mean_frac": float(samples["used_blocks"][-1]) / end_s / monitor.num_blocks,
        "kv_used_peak_frac": monitor.peak_used_blocks / monitor.num_blocks,
        "busy_frac": _busy_s(parts_s, is_async=is_async) / end_s,
    }
    return CellRun(
        figures=figures,
        rows=rows,
        timeline=_timeline(samples, monitor.num_blocks),
        gaps={"itl_s": gap_s, "count": gap_counts},
        parts_s=parts_s,
        most=costs.most,
    )


def _busy_s(parts_s: Mapping[str, float], *, is_async: bool) -> float:
    """Return the seconds of all steps; only the forward passes where the host works beside them."""
    return sum(parts_s.values()) - (parts_s["host"] if is_async else 0.0)


def _timeline(samples: dict[str, NDArray[Any]], num_blocks: int) -> dict[str, NDArray[Any]]:
    """Return means between samples from their differences."""
    passed = {name: np.diff(values) for name, values in samples.items()}
    has_time = passed["time_s"] > 0
    elapsed_s = passed["time_s"][has_time]
    return {
        "start_s": samples["time_s"][:-1][has_time],
        "end_s": samples["time_s"][1:][has_time],
        "running": passed["running"][has_time] / elapsed_s,
        "waiting": passed["waiting"][has_time] / elapsed_s,
        "kv_used_frac": passed["used_blocks"][has_time] / elapsed_s / num_blocks,
        "tokens_per_s": passed["tokens"][has_time] / elapsed_s,
        "prefill_tokens_per_s": passed["prefill_tokens"][has_time] / elapsed_s,
        "steps": passed["steps"][has_time],
    }
