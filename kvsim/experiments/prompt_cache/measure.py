"""A prompt cache for real: prompts to the real model, whole and through the cache of every cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.engine.model.families import context_limit_of
from kvsim.engine.model.first_token import agreement_of, medians
from kvsim.engine.model.generation import use_threads
from kvsim.engine.model.loading import load_model_of
from kvsim.errors import ScenarioError
from kvsim.experiments.base import extended, model_path_of, profile_of, shape_of
from kvsim.experiments.prompt_cache.calibrate import restore_tables
from kvsim.experiments.prompt_cache.cell import PromptsCell
from kvsim.experiments.prompt_cache.costs import slower_s
from kvsim.experiments.prompt_cache.engine.cache import PromptCache, PromptCacheReport
from kvsim.experiments.prompt_cache.engine.run import Answered, answer
from kvsim.experiments.prompt_cache.prompts import check_vocabulary
from kvsim.experiments.prompt_cache.scenario import PromptCacheScenario
from kvsim.experiments.prompt_cache.simulate import Sent, Streams, all_bytes, cell_of, result_of, rows_of, state_of
from kvsim.experiments.types import Job, Measurement
from kvsim.profile.profile import Profile
from kvsim.report.results import RunResult
from kvsim.scenario.checks import check_length
from kvsim.types import IntArray


def measure(scenario: PromptCacheScenario, job: Job) -> tuple[RunResult, dict[str, bytes]]:
    """Send the prompts without a cache, then through that of every cell, in turn, as often as asked.

    Raises
    ------
    ScenarioError
        If the model is not of the scenario's shape or reads too few tokens, or more is swept than prompts and cache.
    """
    cells = scenario.cells
    wrong = next((key for key in scenario.sweep if not key.startswith(("prompts.", "cache."))), None)
    if wrong is not None:
        raise ScenarioError(f"{scenario.name}: a measurement sweeps fields of prompts and cache, not {wrong}")
    profile = profile_of(scenario, job.base_dir)
    streams = Streams(job.base_dir)
    for cell in cells:
        slower_s(profile, cell)
        state_of(cell, streams.of(cell))
        check_vocabulary(cell.prompts, streams.of(cell), shape_of(cell).vocab_size)
    path = model_path_of(scenario, job.base_dir)
    model, _ = load_model_of(shape_of(scenario), path, profile.device, where=scenario.name)
    longest = max((prompt for cell in cells for prompt in streams.of(cell)), key=len)
    where = f"{scenario.name}: the longest prompt (prompts.max_tokens cuts them)"
    check_length(longest.size, context_limit_of(model), where=where)
    use_threads(profile.machine.num_threads)
    chunk_tokens = scenario.prefill_chunk_tokens
    answer(model, longest, chunk_tokens=chunk_tokens)  # the first call is slower than any other
    full: dict[Any, list[list[Answered]]] = {cell.prompts: [] for cell in cells}
    runs: list[list[list[Answered]]] = [[] for _ in cells]
    reports: list[PromptCacheReport | None] = [None] * len(cells)
    share = 1 / (scenario.measure.repeats * len(cells))
    for repeat in range(scenario.measure.repeats):
        for number, cell in enumerate(cells):
            prompts, alone = streams.of(cell), full[cell.prompts]
            if len(alone) == repeat:
                alone.append([answer(model, prompt, chunk_tokens=chunk_tokens) for prompt in prompts])
            answered, reports[number] = _through_cache(model, cell, prompts, profile)
            runs[number].append(answered)
            job.progress(share)
    measured = [
        _cell(cell, streams.of(cell), own, full[cell.prompts], report)
        for cell, own, report in zip(cells, runs, reports, strict=True)
        if report is not None
    ]
    entries, tables = [entry for entry, _ in measured], [table for _, table in measured]
    return result_of(scenario, job, entries, tables, streams, profile=profile, is_measured=True), {}


def _through_cache(
    model: Any, cell: PromptCacheScenario, prompts: Sequence[IntArray], profile: Profile
) -> tuple[list[Answered], PromptCacheReport]:
    """Send every prompt once through a fresh cache of the cell; return also what the cache counted."""
    with PromptCache(
        model,
        cell.cache.tiers(all_bytes(cell, prompts)),
        least_tokens=cell.cache.least_tokens,
        bandwidth_bytes_per_s=cell.cache.link_bytes_per_s or profile.link.stated_bandwidth_bytes_per_s,
    ) as cache:
        answered = [answer(model, prompt, chunk_tokens=cell.prefill_chunk_tokens, cache=cache) for prompt in prompts]
        return answered, cache.report()


def _cell(
    cell: PromptCacheScenario,
    prompts: Sequence[IntArray],
    runs: list[list[Answered]],
    full: list[list[Answered]],
    report: PromptCacheReport,
) -> tuple[PromptsCell, dict[str, NDArray[Any]]]:
    """Return a cell's entry and rows: times are medians over repeats; counts are those of the bytes handed over."""
    own = runs[0]
    sent = Sent(
        reuses=[one.reuse for one in own if one.reuse is not None],
        keepings=[one.keeping for one in own if one.keeping is not None],
        ttft_s=medians(runs, "ttft_s"),
        full_s=medians(full, "ttft_s"),
        restore_s=medians(runs, "restore_s"),
        keep_s=medians(runs, "keep_s"),
        kept_bytes=report.device_bytes + report.host_bytes,
    )
    entry = cell_of(cell, prompts, sent)
    held = [one.held_tokens for one in own]
    is_hit = np.array(held) > 0
    if is_hit.any():
        gains_s = [
            float(np.mean(medians([alone], "ttft_s") - medians([run], "ttft_s"), where=is_hit))
            for run, alone in zip(runs, full, strict=True)
        ]
        busy_s, full_busy_s = (medians(each, "busy_s") for each in (runs, full))
        entry["gain_repeats_s"], entry["busy_gain_s"] = gains_s, float((full_busy_s - busy_s)[is_hit].mean())
    counted = ("reused_tokens", "hits", "host_hits", "evicted", "demoted")
    entry = extended(entry, {name: getattr(report, name) for name in counted}, agreement_of(own, full[0]))
    return entry, rows_of(prompts, sent) | {"reused_tokens": np.array(held), "busy_s": medians(runs, "busy_s")}


MEASUREMENT: Measurement[PromptCacheScenario] = Measurement(measure=measure, cost_tables=restore_tables)
