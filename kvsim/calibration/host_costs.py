"""Times what the host spends on paging, in runs of the engine: decisions of some policies, handing over transfers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from kvsim.calibration.bench import MAX_ROUNDS, WARMUP_STEPS, Bench, step_parts
from kvsim.calibration.fit import Sample, cost_per_event_s
from kvsim.calibration.plan import Plan
from kvsim.engine.links.base import Transfer
from kvsim.policies import cost_name, find_policy
from kvsim.types import FloatArray

Timed: TypeAlias = tuple[str, Mapping[str, Any]]
"""A policy by name, and its arguments."""

TIMED_POLICIES: tuple[Timed, ...] = tuple(
    (name, {}) for name in ("resident", "stream", "lru", "attention", "predictive")
)
"""Policies whose decisions every calibration times inside the engine; `kvsim policy time` times any by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCosts:
    """What the host spends on paging."""

    decisions: dict[str, list[Sample]]
    """By policy: over pages selected, and pages of the grid where a selection is read."""
    submit_s: float
    """To hand over one transfer to the device, slots freed and taken included."""
    write_back_s: float
    """To hand over one page to the host."""


def host_samples(bench: Bench, policies: Sequence[Timed]) -> HostCosts:
    """Return the costs of decisions and of handing over transfers, from runs of `policies`.

    For a policy that reads everything, its decision holds the listing of all pages, which stands where others select.
    """
    decisions: dict[str, list[Sample]] = {}
    submitted_s: list[float] = []
    transfers: list[float] = []
    base_s = _idle_submit_s(bench)
    for name, arguments in policies:
        policy, cost = find_policy(name), cost_name(name, arguments)
        if policy.holds == "everything":
            decisions[cost] = [(1.0, 1.0, 0.0)]  # it is never asked
            continue
        decisions[cost] = []
        for context_tokens, pages in _decided_points(bench.plan, name):
            parts, counts = _decide_run(bench, (name, arguments), context_tokens, pages)
            host_s = parts["decide"]
            if policy.attends == "everything":
                host_s = host_s + parts["select"] + parts["sync"] + parts["choose"]
            else:
                submitted_s += (parts["submit"] * bench.num_layers).tolist()
                transfers += counts.tolist()
            grid_pages = 1.0
            if policy.attends == "selection":
                grid_pages = bench.num_layers * (context_tokens // bench.plan.middle_page_tokens + 1)
            decisions[cost] += [(pages, grid_pages, time_s) for time_s in host_s.tolist()]
    return HostCosts(
        decisions=decisions,
        submit_s=cost_per_event_s(submitted_s, transfers, base_s),
        write_back_s=cost_per_event_s(*_write_back_run(bench), base_s),
    )


def num_host_steps(plan: Plan, policies: Sequence[Timed]) -> int:
    """Return the steps that `host_samples` takes, for a progress bar."""
    points = sum(len(_decided_points(plan, name)) for name, _ in policies if find_policy(name).holds == "budget")
    return (points + 2) * (WARMUP_STEPS + plan.num_decided_steps)


def _decided_points(plan: Plan, policy: str) -> list[tuple[int, int]]:
    """Return (tokens of context, pages selected) of the runs that time a policy's decisions."""
    page_tokens = plan.middle_page_tokens
    if find_policy(policy).attends == "everything":
        return [(context, context // page_tokens) for context in plan.decided_contexts_tokens]
    contexts = plan.decided_contexts_tokens[1:]
    return [(tokens, pages) for tokens in contexts for pages in plan.decided_pages if pages <= tokens // page_tokens]


def _decide_run(
    bench: Bench, policy: Timed, context_tokens: int, pages: int
) -> tuple[dict[str, FloatArray], FloatArray]:
    """Return the parts by step of one policy under pressure, and the transfers to the device of each step."""
    total = context_tokens // bench.plan.middle_page_tokens
    # Room for all but a tenth: a random selection then misses a few pages a layer, as real ones do.
    per_layer = max(pages, round(0.9 * total))
    if find_policy(policy[0]).attends == "everything":
        per_layer = total // 2
    return _host_run(bench, policy, context_tokens, pages, capacity_pages=max(per_layer * bench.num_layers, 2 * total))


def _idle_submit_s(bench: Bench) -> float:
    """Return what the submission part of a step takes when there is nothing to submit."""
    parts, _ = _host_run(bench, ("lru", {}), min(bench.plan.decided_contexts_tokens), 4)
    return float(np.median(parts["submit"])) * bench.num_layers


def _write_back_run(bench: Bench) -> tuple[list[float], list[float]]:
    """Return by step the submission time and the write-backs of a run whose every step fills a page a layer."""
    parts, counts = _host_run(bench, ("lru", {}), min(bench.plan.decided_contexts_tokens), 4, is_filling=True)
    return (parts["submit"] * bench.num_layers).tolist(), counts.tolist()


def _host_run(
    bench: Bench,
    policy: Timed,
    context_tokens: int,
    pages: int,
    *,
    capacity_pages: int | None = None,
    is_filling: bool = False,
) -> tuple[dict[str, FloatArray], FloatArray]:
    """Return the parts by step of a run of one sequence, and the transfers of each step; disturbed steps left out."""
    num_steps = bench.plan.num_decided_steps
    max_steps = MAX_ROUNDS * (num_steps + WARMUP_STEPS)
    name, arguments = policy
    with bench.decoder(
        name,
        arguments=arguments,
        page_tokens=bench.plan.middle_page_tokens,
        num_sequences=1,
        context_tokens=context_tokens,
        max_steps=max_steps,
        capacity_pages=capacity_pages,
        is_filling=is_filling,
    ) as (decoder, schedule, stamps, _):
        # The worker's turns at the interpreter count as waiting, hence more patience than where nothing moves.
        _, quiet = bench.quiet_steps(decoder, schedule, stamps, [pages] * num_steps, idle_frac=0.1)
        moved = decoder.link.drain()
    parts = step_parts(stamps, bench.num_layers)
    return {name: part[quiet] for name, part in parts.items()}, _by_step(moved, len(quiet))[quiet]


def _by_step(transfers: list[Transfer], num_steps: int) -> FloatArray:
    return np.bincount([transfer.step for transfer in transfers], minlength=num_steps).astype(np.float64)
