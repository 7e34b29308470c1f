"""Generation with and without a KV cache, run for real on transformers' own cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.engine.links.page_pool import EngineError
from kvsim.engine.model.families import context_limit_of
from kvsim.engine.model.generation import Generated, generate, peak_bytes, use_threads
from kvsim.engine.model.loading import load_model_of
from kvsim.engine.model.text import read_text
from kvsim.errors import ScenarioError
from kvsim.experiments.base import make_result, model_path_of, profile_of, shape_of
from kvsim.experiments.kv_on_off.report import growth_of
from kvsim.experiments.kv_on_off.scenario import KvOnOff
from kvsim.experiments.kv_on_off.simulate import add_speeds, cell_of, computed_tokens, rows_of, verdict_of
from kvsim.experiments.types import Job, Measurement
from kvsim.report.results import RunResult, joined
from kvsim.scenario.checks import check_length
from kvsim.scenario.shipped import near


def measure(scenario: KvOnOff, job: Job) -> tuple[RunResult, dict[str, bytes]]:
    """Generate every cell's tokens; the cells are taken in turn, repeat by repeat, then once more for their memory.

    Raises
    ------
    ScenarioError
        If the model is not of the scenario's shape, or reads or has too few tokens.
    EngineError
        If two runs of one cell generate different tokens.
    """
    cells = scenario.cells
    profile = profile_of(scenario, job.base_dir)
    path = model_path_of(scenario, job.base_dir)
    model, tokenizer = load_model_of(shape_of(scenario), path, profile.device, where=scenario.name)
    prompts = [_prompt(model, tokenizer, cell, near(cell.run.text, job.base_dir)) for cell in cells]
    total = sum(computed_tokens(cell) * cell.run.repeats for cell in cells)
    use_threads(profile.machine.num_threads)
    generate(model, prompts[0], 2, use_cache=True)  # the first call of a model is slower than any other

    def run(number: int) -> Generated:
        run, prompt = cells[number].run, prompts[number]
        done = generate(model, prompt, run.new_tokens, use_cache=run.use_cache)
        job.progress(done.computed_tokens / total)
        return done

    runs: list[list[Generated]] = [[] for _ in cells]
    for repeat in range(max(cell.run.repeats for cell in cells)):
        for number, cell in enumerate(cells):
            if repeat < cell.run.repeats:
                runs[number].append(run(number))
    peaks = [
        peak_bytes(model, prompt, cell.run.new_tokens, use_cache=cell.run.use_cache)
        for cell, prompt in zip(cells, prompts, strict=True)
    ]
    return _result(scenario, job, runs, peaks), {}


def _prompt(model: Any, tokenizer: Any, cell: KvOnOff, text: str) -> NDArray[np.int64]:
    """Return the cell's prompts, ``[batch, prompt_tokens]``: one stretch of the text after the other."""
    run = cell.run
    ids = np.array(tokenizer(read_text(text), add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)
    needed = run.batch * run.prompt_tokens
    if ids.size < needed:
        raise ScenarioError(
            f"{cell.name}: run.text {run.text!r} has {ids.size} tokens; {run.batch} prompts of {run.prompt_tokens} "
            f"need {needed}"
        )
    each = run.prompt_tokens + run.new_tokens
    check_length(each, context_limit_of(model), where=f"{cell.name}: run.prompt_tokens and run.new_tokens")
    return ids[:needed].reshape(run.batch, run.prompt_tokens)


def _result(scenario: KvOnOff, job: Job, runs: list[list[Generated]], peaks: list[int]) -> RunResult:
    cells, tables = [], []
    tokens: dict[Any, np.ndarray[Any, Any]] = {}
    for number, cell in enumerate(scenario.cells):
        own = runs[number]
        for other in own[1:]:
            if not np.array_equal(own[0].token_ids, other.token_ids):
                raise EngineError(f"{cell.name}: cell {number}: two runs generated different tokens")
        step_s = np.median([run.step_s for run in own], axis=0)
        entry = cell_of(cell, step_s, peak_bytes=peaks[number])
        entry["kv_bytes"], entry["computed_tokens"] = own[0].kv_bytes, own[0].computed_tokens
        entry["latency_repeats_s"] = [float(run.step_s.sum()) for run in own]
        place = (cell.run.batch, cell.run.prompt_tokens, cell.run.new_tokens)
        other_ids = tokens.setdefault(place, own[0].token_ids)
        entry["same_tokens_frac"] = float(np.mean(other_ids == own[0].token_ids))
        cells.append(entry)
        tables.append(joined([rows_of(cell, run.step_s, repetition) for repetition, run in enumerate(own)]))
    add_speeds(cells)
    return make_result(
        scenario,
        job,
        cells=cells,
        rows=tables,
        verdict=verdict_of(cells),
        profile=profile_of(scenario, job.base_dir),
        is_measured=True,
        extra={"growth": growth_of(cells, joined(tables))},
    )


MEASUREMENT: Measurement[KvOnOff] = Measurement(measure=measure)
