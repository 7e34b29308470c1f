"""Prompt modules for real: the stream out of a real store, every prompt beside full attention, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from kvsim.engine.links.states import StateLink, make_link
from kvsim.engine.model.families import context_limit_of
from kvsim.engine.model.generation import use_threads
from kvsim.engine.model.loading import load_model_of
from kvsim.experiments.base import extended, make_result, model_path_of, profile_of, shape_of
from kvsim.experiments.prompt_modules.accounting import ModuleStoreState
from kvsim.experiments.prompt_modules.case import Case, Source, case_of, check_positions, source_of
from kvsim.experiments.prompt_modules.costs import COUNTED, cell_of, counts_table, prompt_key, prompt_of, rows_of
from kvsim.experiments.prompt_modules.engine.divergence import Divergence, divergence_of
from kvsim.experiments.prompt_modules.engine.run import Answered, ModuleRunner, ModuleStore
from kvsim.experiments.prompt_modules.lengths import check_lengths, lengths_json, texts_of
from kvsim.experiments.prompt_modules.report import verdict_of
from kvsim.experiments.prompt_modules.scenario import PromptModules
from kvsim.experiments.prompt_modules.schema import Assembly
from kvsim.experiments.types import Job, Measurement
from kvsim.profile.profile import Profile
from kvsim.report.results import RunResult
from kvsim.types import FloatArray

LENGTHS = "lengths.json"
"""File of a measured result with the tokens of every text."""
ANSWERS = "answers.txt"
"""File of a measured result with what both ways of reading answer."""


@dataclass(slots=True)
class _Bench:
    """The model, its texts as tokens, and the link of this machine."""

    model: Any
    tokenizer: Any
    ids: dict[str, list[int]]
    link: StateLink

    def length_of(self, text: str) -> int:
        return len(self.ids[text])

    def runner(self, cell: PromptModules, case: Case) -> ModuleRunner:
        tokens = self.tokenizer.unk_token_id, self.tokenizer.eos_token_id
        return ModuleRunner(
            self.model,
            case.layout,
            self.ids.__getitem__,
            placeholder_id=next((token for token in tokens if token is not None), 0),
            link=self.link,
            chunk_tokens=cell.prefill_chunk_tokens,
            seen=cell.encoding.seen,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timed:
    """One prompt with all modules stored, beside full attention."""

    stored_s: float
    full_s: float
    full_processor_s: float


def measure(scenario: PromptModules, job: Job) -> tuple[RunResult, dict[str, bytes]]:
    """Serve the stream out of every cell's store, then time and judge each prompt; return also lengths and answers.

    Raises
    ------
    ScenarioError
        If the model is not of the scenario's shape, reads too few positions, or counts other tokens than the scenario.
    """
    cells = scenario.cells
    source, profile = source_of(scenario, job.base_dir), profile_of(scenario, job.base_dir)
    bench = _bench(scenario, job, source, profile)
    cases = [case_of(cell, source, bench.length_of) for cell in cells]
    check_positions(scenario, cases[0].assemblies, context_limit_of(bench.model))
    use_threads(profile.machine.num_threads)
    try:
        runs = []
        for cell, case in zip(cells, cases, strict=True):
            runs.append(_serve(bench, cell, case))
            job.progress(0.5 / len(cells))
        timed = _time_prompts(bench, cells, cases, job)
        prices, answers = _judge(bench, cells, cases, job)
    finally:
        bench.link.close()
    lengths = {text: len(ids) for text, ids in bench.ids.items()}
    files = {LENGTHS: lengths_json(lengths, str(scenario.model.path)), ANSWERS: "\n".join(answers).encode()}
    return _result(scenario, job, profile, cases, runs, timed, prices), files


def _bench(scenario: PromptModules, job: Job, source: Source, profile: Profile) -> _Bench:
    path = model_path_of(scenario, job.base_dir)
    model, tokenizer = load_model_of(shape_of(scenario), path, profile.device, where=scenario.name)
    texts = texts_of(scenario, source)
    encoded: Any = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ids = {text: list(ids_of) for text, ids_of in zip(texts, encoded, strict=True)}
    check_lengths(scenario, {text: len(ids_of) for text, ids_of in ids.items()}, job.base_dir)
    link = make_link(model.device, profile.link.stated_bandwidth_bytes_per_s or math.inf)
    return _Bench(model, tokenizer, ids, link)


def _serve(bench: _Bench, cell: PromptModules, case: Case) -> list[Answered]:
    """Answer the stream out of an empty store of the cell."""
    runner, state = bench.runner(cell, case), case.state(cell)
    store = ModuleStore(cell.cache.tier, bench.link)
    first = case.assemblies[case.requests[0]]
    runner.answer(first, case.state(cell), ModuleStore(cell.cache.tier, bench.link))  # whatever is slow only once
    return [runner.answer(case.assemblies[request], state, store) for request in case.requests]


def _key(cell: PromptModules) -> tuple[Any, ...]:
    return cell.cache.tier, cell.encoding.scaffolds, cell.encoding.seen


def _time_prompts(
    bench: _Bench, cells: Sequence[PromptModules], cases: Sequence[Case], job: Job
) -> dict[tuple[Any, ...], list[_Timed]]:
    """Time every prompt under full attention and, in turn, with all modules stored, by tier and encoding; medians."""
    chosen = {_key(cell): (cell, case) for cell, case in zip(cells, cases, strict=True)}
    stocked = {key: _stocked(bench, cell, case) for key, (cell, case) in chosen.items()}
    timed: dict[tuple[Any, ...], list[_Timed]] = {key: [] for key in chosen}
    num_prompts = len(cases[0].assemblies)
    for prompt in range(num_prompts):
        full: list[Answered] = []
        stored: dict[tuple[Any, ...], list[Answered]] = {key: [] for key in chosen}
        for _ in range(cells[0].measure.repeats):
            full.append(bench.runner(cells[0], cases[0]).full(cases[0].assemblies[prompt])[0])
            for key, (runner, state, store) in stocked.items():
                stored[key].append(runner.answer(chosen[key][1].assemblies[prompt], state, store))
        for key, done in stored.items():
            timed[key].append(
                _Timed(
                    stored_s=float(np.median([answered.ttft_s for answered in done])),
                    full_s=float(np.median([answered.ttft_s for answered in full])),
                    full_processor_s=float(np.median([answered.processor_s for answered in full])),
                )
            )
        job.progress(0.3 / num_prompts)
    return timed


def _stocked(bench: _Bench, cell: PromptModules, case: Case) -> tuple[ModuleRunner, ModuleStoreState, ModuleStore]:
    """Return a store on the cell's tier that holds every module that prompts read, with its cache state."""
    num_units = len(case.layout.units)
    runner, store = bench.runner(cell, case), ModuleStore(cell.cache.tier, bench.link)
    state = ModuleStoreState("lru", budget_units=num_units, num_units=num_units)
    units = [case.layout.units[unit] for unit in case.read_units]
    state.serve(case.read_units)
    for unit, states in zip(units, runner.encode_together(units), strict=True):
        store.put(unit.number, states)
    store.settle()
    return runner, state, store


def _judge(
    bench: _Bench, cells: Sequence[PromptModules], cases: Sequence[Case], job: Job
) -> tuple[dict[tuple[Any, ...], list[Divergence]], list[str]]:
    """Return what every prompt loses against full attention, by encoding, and both answers in words."""
    chosen = {_key(cell)[1:]: (cell, case) for cell, case in zip(cells, cases, strict=True)}
    divergences: dict[tuple[Any, ...], list[Divergence]] = {}
    answers: list[str] = []
    for key, (cell, case) in chosen.items():
        runner = bench.runner(cell, case)
        states = {unit: runner.encode(case.layout.units[unit]) for unit in case.read_units}
        divergences[key] = []
        for assembly in case.assemblies:
            steps = cell.measure.answer_tokens
            alone, cache = runner.full(assembly)
            expected, fed = runner.follow(cache, alone.logits, assembly.num_tokens, steps, None)
            first, own_cache = runner.first(assembly, states)
            actual, _ = runner.follow(own_cache, first, assembly.end, steps, fed)
            divergences[key].append(divergence_of(expected, actual))
            answers += _shown_answers(bench, cell, assembly, expected, actual)
            job.progress(0.2 / len(chosen) / len(case.assemblies))
    return divergences, answers


def _shown_answers(bench: _Bench, cell: PromptModules, assembly: Assembly, expected: Any, actual: Any) -> list[str]:
    words = [bench.tokenizer.decode(logits.argmax(-1).tolist()) for logits in (expected, actual)]
    encoding = f"scaffolds {cell.encoding.scaffolds}, seen {cell.encoding.seen}"
    return [
        f"{assembly.name} ({encoding})",
        f"  full attention: {words[0]!r}",
        f"  modules, fed that: {words[1]!r}",
        "",
    ]


def _result(
    scenario: PromptModules,
    job: Job,
    profile: Profile,
    cases: Sequence[Case],
    runs: Sequence[Sequence[Answered]],
    timed: dict[tuple[Any, ...], list[_Timed]],
    prices: dict[tuple[Any, ...], list[Divergence]],
) -> RunResult:
    entries, tables, prompts = [], [], {}
    for number, cell in enumerate(scenario.cells):
        case, own = cases[number], runs[number]
        times = timed[_key(cell)]
        counts = counts_table([attrgetter(*COUNTED)(done) for done in own])
        ttft_s = np.array([done.ttft_s for done in own])
        full_s: FloatArray = np.array([times[request].full_s for request in case.requests])
        entry = cell_of(cell, case, counts, ttft_s=ttft_s, full_s=full_s)
        entries.append(extended(entry, cell.swept_values(scenario.sweep)))
        processor_s = np.array([done.processor_s for done in own])
        tables.append(rows_of(case, counts, ttft_s=ttft_s, full_s=full_s) | {"processor_s": processor_s})
        for assembly, time, price in zip(case.assemblies, times, prices[_key(cell)[1:]], strict=True):
            one = prompt_of(cell, assembly, ttft_s=time.stored_s, full_s=time.full_s)
            prompts[prompt_key(one)] = extended(one, asdict(price), {"full_processor_s": time.full_processor_s})
    return make_result(
        scenario,
        job,
        cells=entries,
        rows=tables,
        verdict=verdict_of(entries, list(prompts.values())),
        profile=profile,
        seed=scenario.stream.seed,
        is_measured=True,
        extra={"prompts": list(prompts.values())},
    )


MEASUREMENT: Measurement[PromptModules] = Measurement(measure=measure)
