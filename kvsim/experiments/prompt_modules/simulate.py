"""Prompt modules, simulated: a stream of prompts through a store of encoded modules, at the profile's costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kvsim.experiments.base import extended, make_result, profile_of
from kvsim.experiments.prompt_modules.case import case_of, source_of
from kvsim.experiments.prompt_modules.cell import PromptEntry
from kvsim.experiments.prompt_modules.costs import (
    all_stored,
    cell_of,
    costs_of,
    counts_of,
    prompt_key,
    prompt_of,
    rows_of,
)
from kvsim.experiments.prompt_modules.lengths import lengths_of
from kvsim.experiments.prompt_modules.report import verdict_of
from kvsim.experiments.prompt_modules.scenario import PromptModules
from kvsim.experiments.types import Job
from kvsim.report.results import RunResult


def check(scenario: PromptModules, base_dir: Path | None) -> int:
    """Check schema, prompts, budgets and costs of every cell, and return the number of cells."""
    source = source_of(scenario, base_dir)
    length_of = lengths_of(scenario, source, base_dir)
    for cell in scenario.cells:
        case = case_of(cell, source, length_of)
        case.state(cell)
        costs_of(cell, case, profile_of(cell, base_dir))
    return len(scenario.cells)


def simulate(scenario: PromptModules, job: Job) -> RunResult:
    """Serve the stream out of every cell's store, at the profile's costs."""
    source = source_of(scenario, job.base_dir)
    length_of = lengths_of(scenario, source, job.base_dir)
    entries, tables = [], []
    prompts: dict[tuple[Any, ...], PromptEntry] = {}
    for cell in scenario.cells:
        case = case_of(cell, source, length_of)
        profile = profile_of(cell, job.base_dir)
        costs = costs_of(cell, case, profile)
        served, counts = counts_of(case, cell)
        arrived = [case.assemblies[request] for request in case.requests]
        ttft_s = np.array(
            [
                costs.ttft_s(case, assembly, done, cell.cache.tier)
                for assembly, done in zip(arrived, served, strict=True)
            ]
        )
        full_s = np.array([costs.full_s(assembly) for assembly in arrived])
        bound, _ = counts_of(
            case, cell.model_copy(update={"cache": cell.cache.model_copy(update={"policy": "belady"})})
        )
        entry = cell_of(cell, case, counts, ttft_s=ttft_s, full_s=full_s)
        entry["bound_hit_frac"] = sum(done.num_hits for done in bound) / max(1, len(case.accesses))
        outside = [costs.is_outside(assembly, cell.cache.tier) for assembly in arrived]
        entry["ttft_outside_frac"] = float(np.mean(outside))
        entries.append(extended(entry, cell.swept_values(scenario.sweep)))
        tables.append(rows_of(case, counts, ttft_s=ttft_s, full_s=full_s))
        for assembly in case.assemblies:
            warm_s = costs.ttft_s(case, assembly, all_stored(assembly), cell.cache.tier)
            one = prompt_of(cell, assembly, ttft_s=warm_s, full_s=costs.full_s(assembly))
            prompts[prompt_key(one)] = one
        job.progress(1 / len(scenario.cells))
    return make_result(
        scenario,
        job,
        cells=entries,
        rows=tables,
        verdict=verdict_of(entries, list(prompts.values())),
        profile=profile,
        seed=scenario.stream.seed,
        extra={"prompts": list(prompts.values())},
    )
