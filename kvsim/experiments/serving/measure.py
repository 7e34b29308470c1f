"""Serving for real: the traffic of every cell sent to vLLM, arrivals by wall clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.engine.vllm import VllmProcess
from kvsim.errors import ScenarioError
from kvsim.experiments.base import make_result, model_path_of, profile_of, stacked
from kvsim.experiments.serving.costs import memory_of, parameters_of
from kvsim.experiments.serving.fresh_profile import fresh_profile
from kvsim.experiments.serving.latency import latency_figures, meets, request_rows
from kvsim.experiments.serving.parameters import EngineParameters
from kvsim.experiments.serving.probes import Probes, probe_rows
from kvsim.experiments.serving.real import Row, place_of, recorded_workload, rows_of, with_tokens
from kvsim.experiments.serving.run import FIGURES, ServedCell
from kvsim.experiments.serving.scenario import RealEngine, Serving, Slo
from kvsim.experiments.serving.simulate import traffic_entry
from kvsim.experiments.serving.speed import PROBES
from kvsim.experiments.serving.traffic import Traffic, make_traffic
from kvsim.experiments.types import Job, Measurement

SCHEDULE = "schedule-{cell}-{repeat}.json.gz"
"""What vLLM did in one run of one cell, as a workload file."""


def measure(scenario: Serving, job: Job) -> tuple[Any, dict[str, bytes]]:
    """Send the traffic of every cell, in turn and again; return also what vLLM did, step by step.

    Raises
    ------
    ScenarioError
        If the scenario does not say how to measure, or its traffic or engine cannot be had for real.
    KvsimError
        If vLLM is not there or does not start.
    """
    real = _real_of(scenario)
    cells = [(cell, make_traffic(cell, job.base_dir)) for cell in scenario.cells]
    profile = profile_of(scenario, job.base_dir)
    model = str(Path(model_path_of(scenario, job.base_dir)).resolve())
    runs: list[list[ServedCell]] = [[] for _ in cells]
    around: list[list[dict[str, NDArray[Any]]]] = [[] for _ in cells]
    files: dict[str, bytes] = {}
    plans = [
        (number, cell, traffic, parameters_of(cell, memory_of(cell, profile).num_blocks))
        for number, (cell, traffic) in enumerate(cells)
    ]
    for parameters in dict.fromkeys(plan[-1] for plan in plans):
        stated = parameters.model_dump(mode="python", exclude_none=True, exclude={"kv_cache_memory_bytes"})
        with VllmProcess(model, stated, num_threads=real.threads) as vllm:
            _check_resolved(scenario, parameters, vllm.resolved)
            _warm_up(vllm)
            probes = Probes(parameters, partial(vllm.serve, clock="steps"))
            before = probes.steps()
            for repeat in range(real.repeats):
                for number, cell, traffic, own in plans:
                    if own == parameters:
                        rows = rows_of(scenario.name, traffic, parameters)
                        trace = vllm.serve(with_tokens(rows), clock="wall")
                        runs[number].append(_run_of(traffic, rows, trace, cell.slo))
                        after = probes.steps()
                        around[number].append(probe_rows(before, after))
                        before = after
                        name = SCHEDULE.format(cell=number, repeat=repeat)
                        files[name] = recorded_workload(f"{scenario.name}-{number}", rows, parameters, trace)
                        job.progress(1 / (len(cells) * real.repeats))
    entries = [
        traffic_entry(cell, traffic, memory_of(cell, profile)) | _entry_of(own) | cell.swept_values(scenario.sweep)
        for (cell, traffic), own in zip(cells, runs, strict=True)
    ]
    result = make_result(
        scenario,
        job,
        cells=entries,
        rows=[stacked([run.rows for run in own], by="repeat") for own in runs],
        tables={
            "timeline": [stacked([own[0].timeline], by="repeat") for own in runs],
            "itl": [stacked([run.gaps for run in own], by="repeat") for own in runs],
            PROBES: [stacked(own, by="repeat") for own in around],
        },
        verdict=[_verdict(real)],
        profile=profile,
        seed=scenario.run.seed,
        is_measured=True,
    )
    return result, files


def _verdict(real: RealEngine) -> str:
    threads = "1 thread" if real.threads == 1 else f"{real.threads} threads"
    return f"vLLM on {threads}; {real.repeats} runs of each cell, figures are medians over them."


def _real_of(scenario: Serving) -> RealEngine:
    if scenario.measure is None:
        raise ScenarioError(f"{scenario.name}: no [measure]: it says how often vLLM serves each cell, and on what")
    if scenario.engine.scheduler != "vllm":
        raise ScenarioError(f"{scenario.name}: engine.scheduler {scenario.engine.scheduler!r}: only 'vllm' is measured")
    return scenario.measure


def _check_resolved(scenario: Serving, parameters: EngineParameters, resolved: Mapping[str, Any]) -> None:
    """Refuse an engine that made something else of the parameters: nothing could be compared with it.

    Raises
    ------
    ScenarioError
        Naming the parameter.
    """
    for ours, theirs in (
        ("num_gpu_blocks_override", "num_blocks"),
        ("block_size", "block_tokens"),
        ("max_num_batched_tokens", "max_num_batched_tokens"),
        ("max_num_seqs", "max_num_seqs"),
        ("max_model_len", "max_model_len"),
        ("async_scheduling", "async_scheduling"),
    ):
        if getattr(parameters, ours) != resolved[theirs]:
            raise ScenarioError(
                f"{scenario.name}: engine.{ours} = {getattr(parameters, ours)}, and vLLM made {resolved[theirs]} of "
                "it; set it to that"
            )


def _warm_up(vllm: VllmProcess) -> None:
    """Serve something first: the first steps of a process take longer."""
    rows: list[Row] = [
        {"id": f"w{number}", "segments": [[10**9 + number, 60]], "max_tokens": 8, "arrival_step": number}
        for number in range(8)
    ]
    vllm.serve(with_tokens(rows), clock="steps")


def _run_of(traffic: Traffic, rows: Sequence[Row], trace: Mapping[str, Any], slo: Slo | None) -> ServedCell:
    """Return what one run recorded, in the traffic's order of requests."""
    count = len(traffic.requests)
    times = {name: np.full(count, np.nan) for name in ("arrival_s", "scheduled_s", "first_token_s", "last_token_s")}
    hits, preemptions = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for row in rows:
        place, token_s = place_of(row), trace["token_s"][row["id"]]
        times["arrival_s"][place] = row["arrival_s"]
        times["first_token_s"][place], times["last_token_s"][place] = token_s[0], token_s[-1]
    for step in trace["steps"]:
        for name, hit_tokens in step["admitted"]:
            place = int(name[1:])
            if np.isnan(times["scheduled_s"][place]):
                times["scheduled_s"][place], hits[place] = step["start_s"], hit_tokens
        for name in step["preempted"]:
            preemptions[int(name[1:])] += 1
    columns = request_rows(
        **times, prompt_tokens=traffic.requests.prompt_tokens, output_tokens=traffic.requests.max_tokens
    ) | {"hit_tokens": hits, "preemptions": preemptions}
    gap_s = np.sort(np.concatenate([np.diff(times) for times in trace["token_s"].values()]))
    gaps = {"itl_s": gap_s, "count": np.ones(gap_s.size, dtype=np.int64)}
    met = meets(columns, slo)
    figures = latency_figures(columns, gap_s, gaps["count"], slo) | {
        "steps": sum(bool(step["scheduled"]) for step in trace["steps"]),
        "preemptions": int(preemptions.sum()),
        "hit_tokens": int(hits.sum()),
        "hit_frac": float(hits.sum() / traffic.requests.prompt_tokens.sum()),
    }
    columns |= {} if met is None else {"met": met}
    return ServedCell(rows=columns, gaps=gaps, timeline=_timeline(trace["steps"]), figures=figures)


def _timeline(steps: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """Return what ran and waited in each step until the next one."""
    start_s = np.array([step["start_s"] for step in steps])
    end_s = np.r_[start_s[1:], steps[-1]["end_s"]]
    tokens = np.array([sum(count for _, count in step["scheduled"]) for step in steps])
    prefill = np.array([sum(count for _, count in step["scheduled"] if count > 1) for step in steps])
    free = np.array([step["free_blocks"] for step in steps])
    most_free = max(step["free_after"] for step in steps)
    return {
        "start_s": start_s,
        "end_s": end_s,
        "running": np.array([step["running"] for step in steps], dtype=float),
        "waiting": np.array([step["waiting"] for step in steps], dtype=float),
        "kv_used_frac": 1 - free / most_free,
        "tokens_per_s": tokens / (end_s - start_s),
        "prefill_tokens_per_s": prefill / (end_s - start_s),
        "steps": np.ones(start_s.size),
    }


def _entry_of(runs: Sequence[ServedCell]) -> dict[str, Any]:
    """Return medians over the runs, and what each run gave."""
    names = runs[0].figures
    medians = {name: type(names[name])(np.median([run.figures[name] for run in runs])) for name in names}
    return medians | {"repeats": {name: [run.figures[name] for run in runs] for name in FIGURES if name in names}}


MEASUREMENT: Measurement[Serving] = Measurement(measure=measure, fresh_profile=fresh_profile)
