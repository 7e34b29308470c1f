"""A cache of embedding rows for real: swapped into the model, fed the tokens of the stream, held to the plain model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kvsim.engine.links.page_pool import EngineError
from kvsim.engine.model.families import context_limit_of
from kvsim.engine.model.generation import use_threads
from kvsim.engine.model.loading import load_model_of
from kvsim.errors import ScenarioError
from kvsim.experiments.base import extended, make_result, model_path_of, profile_of, shape_of
from kvsim.experiments.embedding_rows.calibrate import row_tables
from kvsim.experiments.embedding_rows.calls import EmbedCall, calls_of, episodes, state_of
from kvsim.experiments.embedding_rows.engine.run import RowRun, RowStep, run_cached, run_plain
from kvsim.experiments.embedding_rows.report import verdict_of
from kvsim.experiments.embedding_rows.scenario import EmbeddingRows
from kvsim.experiments.embedding_rows.simulate import RECORDED, cell_of, inputs_of, predicted_frac
from kvsim.experiments.types import Job, Measurement
from kvsim.report.results import RunResult
from kvsim.scenario.checks import check_length
from kvsim.scenario.digest import content_digest
from kvsim.traces.tokens.stream import stream_bytes
from kvsim.types import FloatArray, IntArray


def measure(scenario: EmbeddingRows, job: Job) -> tuple[RunResult, dict[str, bytes]]:
    """Run the first requests of every cell, the plain model beside, in turn; return also the tokens that were read.

    Raises
    ------
    ScenarioError
        If the model does not suit the scenario.
    EngineError
        If the engine counted otherwise than the cache state.
    """
    cells = scenario.cells
    _check(scenario)
    profile = profile_of(scenario, job.base_dir)
    path = model_path_of(scenario, job.base_dir)
    model, _ = load_model_of(shape_of(scenario), path, profile.device, where=scenario.name)
    plans, requests = [], np.zeros(0, dtype=np.int64)
    for cell in cells:
        _, requests, bigrams = inputs_of(cell, replace(job, recorded=None), cell.measure.requests)
        each = cell.run.prompt_tokens + cell.run.new_tokens
        check_length(each, context_limit_of(model), where=f"{cell.name}: run.prompt_tokens and run.new_tokens")
        plans.append((calls_of(cell, requests, bigrams), predicted_frac(bigrams, requests)))
    use_threads(profile.machine.num_threads)
    run_plain(model, plans[0][0][:2])  # the first call of a model is slower than any other
    repeats = scenario.measure.repeats
    runs: list[list[RowRun]] = [[] for _ in cells]
    plain: list[list[RowStep]] = []
    for _ in range(repeats):
        plain.append(run_plain(model, plans[0][0]))  # all cells read the same tokens
        for number, cell in enumerate(cells):
            runs[number].append(_run(model, cell, plans[number][0], profile.link.stated_bandwidth_bytes_per_s))
            job.progress(1 / (len(cells) * repeats))
    entries, tables = [], []
    for number, cell in enumerate(cells):
        calls, expected_frac = plans[number]
        columns = _columns([call for call in calls if call.counts], runs[number], plain)
        served, _, _ = inputs_of(cell, replace(job, recorded=None), cell.measure.requests)
        entry = cell_of(cell, profile, served, columns, runs[number][0].counts, expected_frac)
        same = [a.logits_digest == b.logits_digest for a, b in zip(runs[number][0].steps, plain[0], strict=True)]
        entry["same_logits_frac"] = float(np.mean(same))
        entries.append(extended(entry, cell.swept_values(scenario.sweep)))
        tables.append(columns)
    result = make_result(
        scenario,
        job,
        cells=entries,
        rows=tables,
        verdict=verdict_of(entries),
        profile=profile,
        is_measured=True,
        extra={"tokens_digest": content_digest(requests)},
    )
    return result, {RECORDED: stream_bytes(served.header, list(requests.reshape(-1, requests.shape[-1])))}


def _run(model: Any, cell: EmbeddingRows, calls: list[EmbedCall], bandwidth_bytes_per_s: float | None) -> RowRun:
    """Run one cell, and refuse a run whose copies and reads are not what the cache state says."""
    run = run_cached(
        model,
        list(episodes(calls)),
        lambda episode: state_of(cell, episode),
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        chunk_rows=cell.prefetch.chunk_rows,
    )
    read = run.tally.read_rows, run.tally.demanded_rows, run.tally.early_rows
    counted = run.counts.hit_rows, run.counts.missed_rows, run.counts.prefetched_rows
    if read != counted:
        raise EngineError(f"{cell.name}: rows read, demanded and early are {read}; the cache state has {counted}")
    return run


def _columns(
    calls: list[EmbedCall], runs: list[RowRun], plain: list[list[RowStep]]
) -> dict[str, FloatArray | IntArray]:
    """Return an entry a counted call; times are medians over repeats."""
    steps = runs[0].steps
    return {
        "request": np.array([call.request for call in calls]),
        "step": np.array([call.step for call in calls]),
        "tokens": np.array([call.tokens.size for call in calls]),
        "distinct_rows": np.array([step.distinct_rows for step in steps]),
        "hit_rows": np.array([step.hit_rows for step in steps]),
        "prefetched_rows": np.array([step.prefetched_rows for step in steps]),
        "embed_s": np.median([[step.embed_s for step in run.steps] for run in runs], axis=0),
        "call_s": np.median([[step.call_s for step in run.steps] for run in runs], axis=0),
        "plain_s": np.median([[step.call_s for step in run] for run in plain], axis=0),
        "plain_embed_s": np.median([[step.embed_s for step in run] for run in plain], axis=0),
    }


def _check(scenario: EmbeddingRows) -> None:
    fixed = ("stream", "measure", "model", "profile", "run.prompt_tokens", "run.new_tokens", "run.batch")
    if any(key.startswith(fixed) for key in scenario.sweep):
        raise ScenarioError(f"{scenario.name}: a measurement sweeps run.mode, cache and prefetch: all cells read alike")


MEASUREMENT: Measurement[EmbeddingRows] = Measurement(measure=measure, cost_tables=row_tables)
