"""The wiring: a scenario in, a simulated result out. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import joblib
import numpy as np
from numpy.typing import NDArray

from kvsim.assets import find_capture
from kvsim.cells import (
    Cell,
    cell_at,
    cells_of,
    check_budget,
    compare_to_resident,
    summarise,
    summary_of,
    tpot_interval_s,
)
from kvsim.errors import KvsimError, ScenarioError
from kvsim.hardware import SPECULATE
from kvsim.policies.base import reads_speculation
from kvsim.ranges import beyond_profile, tell_ranges
from kvsim.report.timeline import TimedRun
from kvsim.results import RunResult, make_manifest
from kvsim.scenario import Scenario
from kvsim.sim import Replay, SimulationInput, Timeline, simulate_decode
from kvsim.traces import GeneratorParameters, SyntheticSource, TraceFile, fit_generator, open_trace
from kvsim.traces.base import NEXT_LAYER, AccessSource
from kvsim.traces.batch import Repeated
from kvsim.types import PageGrid, pages_of

EXTRAPOLATED_STEPS = 64
"""Steps generated where an extrapolating scenario does not say how many."""

Progress: TypeAlias = Callable[[float], None]
"""Called with the share of the work done since the last call."""

MIN_DECISIONS_FOR_PROCESSES = 20_000
"""Below, starting processes takes longer than they save."""

Rows: TypeAlias = dict[str, NDArray[Any]]


def simulate(
    scenario: Scenario,
    *,
    text: str = "",
    command: str = "",
    beside: Path | None = None,
    progress: Progress | None = None,
    recorded: Callable[[Scenario], Path] | None = None,
) -> RunResult:
    """Simulate every cell of `scenario` and return its rows, summary and manifest.

    Parameters
    ----------
    text
        The scenario file as it was read, for the manifest.
    command
        What the user typed, for the manifest.
    beside
        Where relative paths of the scenario start, if not here.
    recorded
        Trace to replay for a cell's scenario, in place of the one it names.

    Raises
    ------
    KvsimError
        If the profile, the trace, a policy or the budget does not fit the scenario.
    """
    cells = cells_of(scenario if recorded else _by_the_traces_channel(scenario), beside)
    sources = _Sources(beside, recorded)
    contexts_tokens = [sources.last_context(cell) for cell in cells]
    for cell, context_tokens in zip(cells, contexts_tokens, strict=True):
        check_budget(cell, context_tokens)
    beyond = beyond_profile(cells, contexts_tokens)
    rows_of = _simulate_all(cells, sources, progress or _ignore)
    tables: list[Rows] = []
    for number, cell in enumerate(cells):
        size = rows_of[number]["step"].size
        named: Rows = {
            "cell": np.full(size, number, dtype=np.int64),
            "policy": np.array([cell.choice.shown] * size, dtype=object),
        }
        tables.append(named | rows_of[number])
    summaries = [
        summary_of(cell, rows) | {"tpot_interval_s": tpot_interval_s(cell, rows)}
        for cell, rows in zip(cells, rows_of, strict=True)
    ]
    compare_to_resident(summaries, cells)
    return RunResult(
        summary=tell_ranges(summarise(scenario, cells, summaries), beyond),
        rows={name: np.concatenate([table[name] for table in tables]) for name in tables[0]},
        manifest=make_manifest(
            scenario_text=text, scenario_hash=scenario.hash, seed=scenario.run.seed, command=command
        ),
    )


def simulate_timeline(
    scenario: Scenario,
    number: int,
    *,
    beside: Path | None = None,
    progress: Progress | None = None,
    recorded: Callable[[Scenario], Path] | None = None,
) -> TimedRun:
    """Simulate cell `number` of `scenario` once, keeping who did what when; parameters as of `simulate`.

    Raises
    ------
    KvsimError
        If there is no such cell, or the profile, the trace, the policy or the budget does not fit.
    """
    cell = cell_at(scenario if recorded else _by_the_traces_channel(scenario), number, beside)
    sources = _Sources(beside, recorded)
    check_budget(cell, sources.last_context(cell))
    seed = cell.scenario.run.seed
    replay = sources.of(cell, seed)
    advance = progress or _ignore
    timeline = Timeline()
    rows = simulate_decode(_input(cell, replay, seed), lambda steps: advance(steps / replay.num_steps), timeline)
    return TimedRun(name="simulated", spans=timeline.spans, rows=rows)


def check_scenario(scenario: Scenario, beside: Path | None = None) -> int:
    """Check everything that a run would find at fault before its first step, and return the number of cells.

    Raises
    ------
    KvsimError
        With a line for every fault.
    """
    cells = cells_of(_by_the_traces_channel(scenario), beside)
    sources = _Sources(beside, None)
    faults = []
    for cell in cells:
        try:
            sources.check(cell)
        except KvsimError as problem:
            faults.append(str(problem))
    if faults:
        raise ScenarioError("\n".join(dict.fromkeys(faults)))
    return len(cells)


def range_warnings(scenario: Scenario, beside: Path | None = None) -> list[str]:
    """Return a line for each cost that the scenario asks outside what its profile measured.

    Raises
    ------
    KvsimError
        As of `check_scenario`.
    """
    cells = cells_of(_by_the_traces_channel(scenario), beside)
    sources = _Sources(beside, None)
    return [str(found) for found in beyond_profile(cells, [sources.last_context(cell) for cell in cells])]


def _by_the_traces_channel(scenario: Scenario) -> Scenario:
    """Return the scenario selecting by what its trace says to select by, where nothing was recorded of its own."""
    channel = scenario.trace.channel
    if channel is None:
        return scenario
    return scenario.model_copy(update={"selector": scenario.selector.model_copy(update={"channel": channel})})


def _ignore(share: float) -> None:
    """Show no progress."""
    del share


def _simulate_all(cells: list[Cell], sources: _Sources, progress: Progress) -> list[Rows]:
    """Return the rows of every cell; cells that do not differ in what their rows depend on are simulated once.

    Long work is shared out to processes, in pieces of cells that read the same.
    """
    first: dict[tuple[str, str], int] = {}
    for number, cell in enumerate(cells):
        first.setdefault(_same_run(cell), number)
    distinct = list(first.values())
    num_workers = min(os.cpu_count() or 1, len(distinct))
    work = sum(sources.num_decisions(cells[number]) for number in distinct)
    if num_workers == 1 or work < MIN_DECISIONS_FOR_PROCESSES:
        done = {}
        for number in distinct:
            done[number] = _simulate_cell(cells[number], sources, lambda share: progress(share / len(distinct)))
    else:
        pieces = _pieces(cells, distinct, num_workers)
        for number in distinct:
            if cells[number].scenario.trace.extrapolate is not None:
                sources.fit(cells[number].scenario)
        fresh = sources.unopened()
        shared = joblib.Parallel(n_jobs=num_workers, return_as="generator_unordered")(
            joblib.delayed(_simulate_piece)([(number, cells[number]) for number in piece], fresh) for piece in pieces
        )
        done = {}
        for piece_rows in shared:
            done |= piece_rows
            progress(len(piece_rows) / len(distinct))
    return [done[first[_same_run(cell)]] for cell in cells]


def _pieces(cells: list[Cell], numbers: list[int], num_workers: int) -> list[list[int]]:
    """Return the cells in pieces of one page size, context and batch each, the longest context first."""
    groups: dict[tuple[str, int, int], list[int]] = {}
    for number in numbers:
        scenario = cells[number].scenario
        key = scenario.trace.model_dump_json(), scenario.page_tokens, scenario.run.batch
        groups.setdefault(key, []).append(number)
    pieces = [group[start::num_workers] for group in groups.values() for start in range(num_workers)]
    return [piece for piece in reversed(pieces) if piece]


def _simulate_piece(numbered: list[tuple[int, Cell]], sources: _Sources) -> dict[int, Rows]:
    return {number: _simulate_cell(cell, sources, _ignore) for number, cell in numbered}


class _Sources:
    """What the batches of a run read: traces opened and generators fitted once."""

    def __init__(self, beside: Path | None, recorded: Callable[[Scenario], Path] | None) -> None:
        self._beside = beside
        self._recorded = recorded
        self._files: dict[Path, TraceFile] = {}
        self._fits: dict[tuple[Path, int, str], GeneratorParameters] = {}
        self._kept: tuple[Any, Replay] | None = None

    def of(self, cell: Cell, seed: int) -> Replay:
        """Return what the cell's batch reads; the last one asked for is kept for the next policy or budget."""
        scenario = cell.scenario
        path = self._path(scenario)
        key = (path, scenario.trace, scenario.page_tokens, scenario.selector, scenario.run.batch, cell.shape, seed)
        if self._kept is None or self._kept[0] != key:
            source = self._make(cell, path, seed)
            replay = Replay(
                source,
                cell.selector,
                channel=scenario.selector.channel,
                page_tokens=scenario.page_tokens,
                num_steps=_num_steps(scenario, source.num_steps),
            )
            self._kept = key, replay
        return self._kept[1]

    def last_context(self, cell: Cell) -> int:
        """Return the longest context of the cell's run in tokens, without making what it reads."""
        trace = cell.scenario.trace
        if trace.extrapolate is not None:
            return trace.extrapolate.context_tokens + _num_steps(cell.scenario, EXTRAPOLATED_STEPS) - 1
        file = self._open(self._path(cell.scenario))
        return int(file.context_tokens(_num_steps(cell.scenario, file.num_steps) - 1).max())

    def unopened(self) -> _Sources:
        """Return the same without anything open, for another process; generators stay fitted."""
        fresh = _Sources(self._beside, self._recorded)
        fresh._fits = self._fits
        return fresh

    def num_decisions(self, cell: Cell) -> int:
        """Return how often the cell's policy decides: a measure of the work."""
        scenario = cell.scenario
        available = EXTRAPOLATED_STEPS
        if scenario.trace.extrapolate is None:
            available = self._open(self._path(scenario)).num_steps
        return _num_steps(scenario, available) * cell.shape.num_layers * scenario.run.repetitions

    def check(self, cell: Cell) -> None:
        """Refuse a cell whose budget is too small, whose policy cannot be made, or whose trace lacks what it reads."""
        context = self.last_context(cell)
        check_budget(cell, context)
        scenario = cell.scenario
        pages = pages_of(context, scenario.page_tokens)
        grid = PageGrid(num_sequences=scenario.run.batch, num_layers=cell.shape.num_layers, pages_per_layer=pages)
        policy = cell.make_policy(cell.setting(grid, context, scenario.run.seed))
        file = self._open(self._path(scenario))
        if cell.selector is not None:
            file.scores(0, 0, scenario.selector.channel, scenario.page_tokens)
            if reads_speculation(policy):
                _check_speculation(scenario, file)
            if reads_speculation(policy) or scenario.selector.channel == NEXT_LAYER:
                cell.profile.segment(SPECULATE)
        if scenario.trace.extrapolate is None:
            _check_layers(cell, file)

    def fit(self, scenario: Scenario) -> GeneratorParameters:
        """Return the generator fitted to the scenario's trace."""
        path = self._path(scenario)
        key = (path, scenario.page_tokens, scenario.selector.channel)
        if key not in self._fits:
            self._fits[key] = fit_generator(self._open(path), scenario.page_tokens, scenario.selector.channel)
        return self._fits[key]

    def _path(self, scenario: Scenario) -> Path:
        return self._recorded(scenario) if self._recorded else find_capture(scenario.trace.path, self._beside)

    def _open(self, path: Path) -> TraceFile:
        if path not in self._files:
            self._files[path] = open_trace(path)
        return self._files[path]

    def _make(self, cell: Cell, path: Path, seed: int) -> AccessSource:
        scenario, trace = cell.scenario, cell.scenario.trace
        file = self._open(path)
        if trace.extrapolate is not None:
            return SyntheticSource(
                self.fit(scenario),
                context_tokens=trace.extrapolate.context_tokens,
                num_steps=trace.num_steps or EXTRAPOLATED_STEPS,
                num_layers=cell.shape.num_layers,
                num_sequences=scenario.run.batch,
                page_tokens=scenario.page_tokens,
                seed=seed,
                middle_growth=trace.extrapolate.middle_growth,
            )
        _check_layers(cell, file)
        if scenario.run.batch == file.num_sequences:
            return file
        return Repeated(file, scenario.run.batch)


def _check_speculation(scenario: Scenario, file: TraceFile) -> None:
    if scenario.trace.extrapolate is not None and scenario.selector.channel != NEXT_LAYER:
        raise ScenarioError(
            f"{scenario.name}: a policy reads {NEXT_LAYER}, which [trace.extrapolate] does not generate; replay a "
            "trace that holds it untouched"
        )
    file.scores(0, 0, NEXT_LAYER, scenario.page_tokens)


def _check_layers(cell: Cell, file: TraceFile) -> None:
    if file.num_layers != cell.shape.num_layers:
        raise ScenarioError(
            f"{cell.scenario.name}: trace {cell.scenario.trace.path} has {file.num_layers} layers, the model shape "
            f"{cell.shape.num_layers}; a trace is replayed untouched unless [trace.extrapolate] asks for a "
            "generator fitted to it"
        )


def _num_steps(scenario: Scenario, available: int) -> int:
    trace = scenario.trace
    steps = trace.num_steps or available
    if steps > available and trace.extrapolate is None:
        raise ScenarioError(f"{scenario.name}: trace.num_steps is {steps}, the trace {trace.path} has {available}")
    if steps <= scenario.run.warmup_steps:
        raise ScenarioError(
            f"{scenario.name}: run.warmup_steps ({scenario.run.warmup_steps}) leaves none of {steps} steps to count"
        )
    return steps


def _same_run(cell: Cell) -> tuple[str, str]:
    """Return what a cell's rows depend on: a policy that keeps everything does not depend on the budget."""
    scenario = cell.scenario
    if cell.holds_everything:
        scenario = scenario.model_copy(update={"budget": None})
    return scenario.model_dump_json(exclude={"run": {"policies"}, "name": True}), cell.choice.model_dump_json()


def _simulate_cell(cell: Cell, sources: _Sources, progress: Progress) -> Rows:
    repetitions: list[Rows] = []
    num_repetitions = cell.scenario.run.repetitions
    for repetition in range(num_repetitions):
        seed = cell.scenario.run.seed + repetition
        replay = sources.of(cell, seed)
        share = 1 / (num_repetitions * replay.num_steps)

        def advance(num_steps: int, share: float = share) -> None:
            progress(num_steps * share)

        rows: Rows = dict(simulate_decode(_input(cell, replay, seed), advance))
        rows["repetition"] = np.full(replay.num_steps, repetition, dtype=np.int64)
        repetitions.append(rows)
    return {name: np.concatenate([rows[name] for rows in repetitions]) for name in repetitions[0]}


def _input(cell: Cell, replay: Replay, seed: int) -> SimulationInput:
    scenario = cell.scenario
    last_context = int(replay.context_tokens(replay.num_steps - 1).max())
    setting = cell.setting(replay.grid, last_context, seed)
    return SimulationInput(
        profile=cell.profile,
        replay=replay,
        policy=cell.make_policy(setting),
        policy_name=cell.choice.name,
        setting=setting,
        page_bytes=cell.page_bytes,
        pinned_first_pages=scenario.selector.sink_pages,
        pinned_last_pages=scenario.selector.recent_pages,
        warmup_steps=scenario.run.warmup_steps,
        chunk_pages=scenario.prefetch.chunk_pages,
        window_transfers=scenario.prefetch.window_transfers,
    )
