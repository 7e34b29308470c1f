"""Serving, simulated: traffic through one engine on the costs of a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvsim.experiments.base import make_result
from kvsim.experiments.serving.costs import Memory, Platform, platform_of
from kvsim.experiments.serving.draws import drawn_figures
from kvsim.experiments.serving.nulls import null_figures
from kvsim.experiments.serving.recorded import check_schedules
from kvsim.experiments.serving.report.verdict import verdict_of
from kvsim.experiments.serving.run import run_cell, with_interval
from kvsim.experiments.serving.scenario import Serving
from kvsim.experiments.serving.speed import Speed, speeds_of
from kvsim.experiments.serving.tiers import check_tiers
from kvsim.experiments.serving.traffic import Traffic, make_traffic
from kvsim.experiments.types import Job
from kvsim.policies.schedulers import make_scheduler
from kvsim.profile.serving import ServingCosts
from kvsim.report.results import RunResult


def check(scenario: Serving, base_dir: Path | None) -> int:
    """Check profile, memory, scheduler and requests of every cell, and return the number of cells."""
    traffics = _Traffics(base_dir)
    for cell in scenario.cells:
        check_tiers(cell, platform_of(cell, base_dir).memory)
        make_scheduler(cell.engine.scheduler, cell.engine.arguments)
        traffics.of(cell)
    return len(scenario.cells)


def simulate(scenario: Serving, job: Job) -> RunResult:
    """Serve the traffic of every cell; where a measurement recorded schedules, schedule those again too.

    Figures of a scenario that is measured are medians over draws, as the engine's are over its runs.
    """
    traffics = _Traffics(job.base_dir)
    entries, runs = [], []
    platform = platform_of(scenario.cells[0], job.base_dir)
    schedules = check_schedules(job.recorded) if job.recorded is not None else None
    speeds = _speeds(scenario, job, platform)
    for number, cell in enumerate(scenario.cells):
        platform, traffic = platform_of(cell, job.base_dir), traffics.of(cell)
        if (speed := speeds.get(number)) is not None:
            platform = replace(platform, costs=speed.costs(platform.costs))
        costs, memory = platform.costs, platform.memory
        check_tiers(cell, memory)
        run = run_cell(cell, traffic, platform)
        medians: dict[str, float] = {}
        if scenario.measure is None:
            intervals = with_interval(cell, traffic, platform, run)
        else:
            medians, intervals = drawn_figures(cell, traffic, platform, run)
        entry = traffic_entry(cell, traffic, memory) | run.figures | medians
        entry |= {"parts_s": run.parts_s, "outside": outside_of(costs, run.most), "intervals": intervals}
        if speed is not None:
            entry["step_time_ratio"] = speed.step_time_ratio
        if scenario.measure is not None:
            entry["nulls"] = null_figures(cell, traffic, platform)
        entries.append(entry | cell.swept_values(scenario.sweep))
        runs.append(run)
        job.progress(1 / len(scenario.cells))
    return make_result(
        scenario,
        job,
        cells=entries,
        rows=[run.rows for run in runs],
        tables={"timeline": [run.timeline for run in runs], "itl": [run.gaps for run in runs]},
        verdict=verdict_of(
            entries,
            profile_kind=platform.profile.kind,
            engine=platform.costs.engine,
            is_drawn=scenario.measure is not None,
        ),
        profile=platform.profile,
        seed=scenario.run.seed,
        extra={"trace_reading": traffics.readings} | ({} if schedules is None else {"schedules": schedules}),
    )


def _speeds(scenario: Serving, job: Job, platform: Platform) -> dict[int, Speed]:
    """Return how fast the machine was in each cell of the measurement that is replayed, if any says so.

    A profile without costs of the engine is not scaled: what it is off by is its error, not the machine's speed.
    """
    if job.recorded is None or platform.profile.serving is None:
        return {}
    return speeds_of(job.recorded, platform.costs, has_spread=scenario.run.spread)


class _Traffics:
    """Traffic by what it depends on, each made once."""

    def __init__(self, base_dir: Path | None) -> None:
        self._base_dir = base_dir
        self._made: dict[str, Traffic] = {}

    def of(self, cell: Serving) -> Traffic:
        """Return the traffic of a cell."""
        engine = cell.engine
        key = repr((cell.trace, cell.generated, cell.arrivals, cell.run.seed, engine.block_size, engine.max_model_len))
        if key not in self._made:
            self._made[key] = make_traffic(cell, self._base_dir)
        return self._made[key]

    @property
    def readings(self) -> list[str]:
        """How traces were read, for people."""
        return list(dict.fromkeys(traffic.reading for traffic in self._made.values() if traffic.reading))


def traffic_entry(cell: Serving, traffic: Traffic, memory: Memory) -> dict[str, Any]:
    """Return what the summary says of a cell before anything is served."""
    requests, start_s = traffic.requests, traffic.sessions.start_s
    span_s = 0.0 if start_s is None else float(start_s.max() - start_s.min())
    return {
        "scheduler": cell.engine.scheduler,
        "num_requests": len(requests),
        "num_dropped": traffic.num_dropped,
        "num_cut": traffic.num_cut,
        "prompt_tokens": int(requests.prompt_tokens.sum()),
        "output_tokens": int(requests.max_tokens.sum()),
        "offered_hz": (traffic.sessions.first.size - 2) / span_s if span_s > 0 else None,
        "num_blocks": memory.num_blocks,
        "block_tokens": cell.engine.block_size,
        "kv_bytes": (memory.num_blocks - 1) * memory.block_bytes,
        "weights_bytes": memory.weights_bytes,
        "activation_bytes": memory.activation_bytes,
    }


def outside_of(costs: ServingCosts, most: Mapping[str, float]) -> dict[str, float]:
    """Return by how many times the largest step went beyond what each table covers, where it did."""
    ends = {name: table.amounts[-1] for name, table in costs.tables().items()}
    return {name: most[name] / end for name, end in ends.items() if most[name] > end > 0}
