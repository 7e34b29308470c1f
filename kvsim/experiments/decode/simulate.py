"""A decode scenario simulated: its cells are resolved, checked, simulated and summarised. Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import joblib
import numpy as np
from numpy.typing import NDArray

from kvsim.experiments.decode.cells import Cell, Refused, cells_of, only, resolve
from kvsim.experiments.decode.crosscheck import accesses_in
from kvsim.experiments.decode.outside_profile import beyond_profile
from kvsim.experiments.decode.provenance import own_inputs
from kvsim.experiments.decode.sources import Sources
from kvsim.experiments.decode.summarise import simulated_entry, simulated_summary
from kvsim.experiments.decode.workers import in_worker
from kvsim.experiments.provenance import manifest_of
from kvsim.experiments.types import Job
from kvsim.profile.profile import Profile
from kvsim.report.results import RunResult, joined
from kvsim.report.timeline import TimedRun
from kvsim.scenario.decode import Scenario
from kvsim.sim.inputs import SimulationInput
from kvsim.sim.replay import Replay
from kvsim.sim.simulation import Path as StepPath
from kvsim.sim.simulation import simulate_decode
from kvsim.sim.timeline import Timeline

MIN_DECISIONS_FOR_PROCESSES = 20_000
"""Below, starting processes takes longer than they save."""

Rows: TypeAlias = dict[str, NDArray[Any]]
Progress: TypeAlias = Callable[[float], None]
"""Called with the share of the work done since the last call."""


def simulate(scenario: Scenario, job: Job, *, change_profile: Callable[[Profile], Profile] | None = None) -> RunResult:
    """Simulate every cell of `scenario` and return its rows, summary and manifest.

    Parameters
    ----------
    change_profile
        What to make of each profile first, for hardware that one does not have.

    Raises
    ------
    KvsimError
        If the profile, the trace, a policy or the budget does not fit the scenario.
    """
    sources = sources_of(job)
    cells = resolve(build_cells(scenario, job, sources, change_profile), check_cell(sources))
    rows_of = simulate_cells(cells, sources, job.progress)
    entries = [simulated_entry(cell, rows) for cell, rows in zip(cells, rows_of, strict=True)]
    return RunResult(
        summary=simulated_summary(scenario, cells, entries, sources.fit),
        rows=joined([_named(number, cell, rows_of[number]) for number, cell in enumerate(cells)]),
        manifest=manifest_of(scenario, job, seed=scenario.run.seed, more=own_inputs(cells, job.accesses))
        | {"accesses": sources.digests(), "texts": sources.texts()},
    )


def simulate_timeline(scenario: Scenario, number: int, job: Job) -> TimedRun:
    """Simulate cell `number` of `scenario` once, keeping who did what when.

    Raises
    ------
    KvsimError
        If there is no such cell, or the profile, the trace, the policy or the budget does not fit.
    """
    sources = sources_of(job)
    built = list(build_cells(scenario, job, sources))
    (cell,) = resolve(iter([only(built, number, scenario.name)]), check_cell(sources))
    cell.check_one_device("a timeline")
    replay = sources.of(cell, cell.scenario.run.seed)
    timeline = Timeline()
    rows = simulate_decode(input_of(cell, replay), lambda steps: job.progress(steps / replay.num_steps), timeline)
    return TimedRun(name="simulated", spans=timeline.spans, rows=rows)


def check(scenario: Scenario, base_dir: Path | None = None) -> int:
    """Check everything that a run would refuse before its first step, and return the number of cells.

    Raises
    ------
    KvsimError
        With a line for every error.
    """
    return len(_resolved(scenario, base_dir))


def warnings(scenario: Scenario, base_dir: Path | None = None) -> list[str]:
    """Return a line for each cost that the scenario asks outside what its profile measured.

    Raises
    ------
    KvsimError
        As of `check`.
    """
    return [str(beyond) for beyond in beyond_profile(_resolved(scenario, base_dir))]


def sources_of(job: Job) -> Sources:
    """Return what the batches of a run read: the traces of the scenario, or what a measured result recorded."""
    return Sources(job.base_dir, accesses_in(job.recorded) if job.recorded else None, job.accesses)


def build_cells(
    scenario: Scenario, job: Job, sources: Sources, change_profile: Callable[[Profile], Profile] | None = None
) -> Iterator[Cell | Refused]:
    """Return the cells of a scenario as they are simulated, one by one."""
    adapt = None if "selector.channel" in scenario.sweep else _selecting_by_trace
    if job.recorded:
        adapt = _as_long_as_measured
    return cells_of(
        scenario,
        sources.extent,
        base_dir=job.base_dir,
        plug_ins=job.plug_ins,
        adapt=adapt,
        change_profile=change_profile,
    )


def check_cell(sources: Sources) -> Callable[[Cell], None]:
    """Return the check of a cell before its first step."""

    def check(cell: Cell) -> None:
        sources.check(cell)
        beyond_profile([cell])  # refuses what no table can answer

    return check


def same_run(cell: Cell) -> tuple[str, str]:
    """Return what a cell's rows depend on: where the policy keeps everything, neither budget nor prefetching.

    Where it attends to everything, nothing is selected.
    """
    scenario = cell.scenario
    if cell.holds_everything:
        scenario = scenario.model_copy(update={"budget": None, "prefetch": None})
    if cell.policy.attends == "everything":
        scenario = scenario.model_copy(update={"selector": None})
    unread: dict[str, Any] = {"run": {"policies"}, "name": True, "profile": {"device_memory"}}
    return scenario.model_dump_json(exclude=unread), cell.choice.model_dump_json()


def simulate_cell(cell: Cell, sources: Sources, progress: Progress, *, path: StepPath = "auto") -> Rows:
    """Return the rows of all repetitions of a cell, one after the other.

    The rows do not depend on `path`: ``events`` needs no compiled step, which takes half a minute to compile once.
    """
    repetitions: list[Rows] = []
    num_repetitions = cell.scenario.run.repetitions
    for repetition in range(num_repetitions):
        seed = cell.scenario.run.seed + repetition
        replay = sources.of(cell, seed)
        share = 1 / (num_repetitions * replay.num_steps)

        def advance(num_steps: int, share: float = share) -> None:
            progress(num_steps * share)

        rows: Rows = dict(simulate_decode(input_of(cell, replay, seed), advance, path=path))
        rows["repetition"] = np.full(replay.num_steps, repetition, dtype=np.int64)
        repetitions.append(rows)
    return joined(repetitions)


def input_of(cell: Cell, replay: Replay, seed: int | None = None) -> SimulationInput:
    """Return what the simulation of one repetition needs, with a fresh policy."""
    scenario = cell.scenario
    return SimulationInput(
        profile=cell.profile,
        replay=replay,
        policy=cell.make_policy(seed),
        policy_name=cell.cost_name,
        setting=cell.setting_for(seed),
        page_bytes=cell.page_bytes,
        pinned_first_pages=scenario.selector.sink_pages,
        pinned_last_pages=scenario.selector.recent_pages,
        warmup_steps=scenario.run.warmup_steps,
        chunk_pages=scenario.prefetch.chunk_pages,
        window_transfers=scenario.prefetch.window_transfers,
        devices=cell.device_shares(seed),
        hidden_bytes=cell.hidden_bytes,
    )


def simulate_cells(cells: Sequence[Cell], sources: Sources, progress: Progress) -> list[Rows]:
    """Return the rows of every cell; cells that do not differ in what their rows depend on are simulated once.

    Long work is shared out to processes, in pieces of cells that read the same.
    """
    first: dict[tuple[str, str], int] = {}
    for number, cell in enumerate(cells):
        first.setdefault(same_run(cell), number)
    distinct = list(first.values())
    num_workers = min(os.cpu_count() or 1, len(distinct))
    done: dict[int, Rows] = {}
    if num_workers == 1 or sum(_num_decisions(cells[number]) for number in distinct) < MIN_DECISIONS_FOR_PROCESSES:
        for number in distinct:
            done[number] = simulate_cell(cells[number], sources, lambda share: progress(share / len(distinct)))
    else:
        for rows_of in _in_processes(cells, distinct, sources, num_workers):
            done |= rows_of
            progress(len(rows_of) / len(distinct))
    return [done[first[same_run(cell)]] for cell in cells]


def _in_processes(
    cells: Sequence[Cell], numbers: Sequence[int], sources: Sources, num_workers: int
) -> Iterator[dict[int, Rows]]:
    """Yield the rows of some cells by number, as processes finish them."""
    for number in numbers:
        if cells[number].scenario.trace.extrapolate is not None:
            sources.fit(cells[number].scenario)
    fresh = sources.unopened()
    pieces = [[(number, cells[number]) for number in piece] for piece in _pieces(cells, numbers, num_workers)]
    shared = joblib.Parallel(n_jobs=num_workers, return_as="generator_unordered")
    yield from shared(joblib.delayed(in_worker)(os.getpid(), _simulate_piece, piece, fresh) for piece in pieces)


def _pieces(cells: Sequence[Cell], numbers: Sequence[int], num_workers: int) -> list[list[int]]:
    """Return the cells in pieces of one page size, context and batch each, the longest context first."""
    groups: dict[tuple[str, int, int], list[int]] = {}
    for number in numbers:
        scenario = cells[number].scenario
        key = scenario.trace.model_dump_json(), scenario.page_tokens, scenario.run.batch
        groups.setdefault(key, []).append(number)
    pieces = [group[start::num_workers] for group in groups.values() for start in range(num_workers)]
    return [piece for piece in reversed(pieces) if piece]


def _simulate_piece(numbered: Sequence[tuple[int, Cell]], sources: Sources) -> dict[int, Rows]:
    return {number: simulate_cell(cell, sources, lambda _: None) for number, cell in numbered}


def _num_decisions(cell: Cell) -> int:
    """Return how often the cell's policy decides: a measure of the work."""
    return cell.extent.num_steps * cell.shape.paged_layers * cell.scenario.run.repetitions


def _named(number: int, cell: Cell, rows: Rows) -> Rows:
    size = rows["step"].size
    named: Rows = {
        "cell": np.full(size, number, dtype=np.int64),
        "policy": np.array([cell.choice.shown] * size, dtype=object),
    }
    return named | rows


def _resolved(scenario: Scenario, base_dir: Path | None) -> list[Cell]:
    job = Job(base_dir=base_dir)
    sources = sources_of(job)
    return resolve(build_cells(scenario, job, sources), check_cell(sources))


def _as_long_as_measured(scenario: Scenario) -> Scenario:
    """Return the scenario replaying as many steps as are measured: a capture may hold more."""
    if scenario.measure is None or scenario.trace.num_steps is not None:
        return scenario
    trace = scenario.trace.model_copy(update={"num_steps": scenario.measure.num_steps})
    return scenario.model_copy(update={"trace": trace})


def _selecting_by_trace(scenario: Scenario) -> Scenario:
    """Return the scenario selecting by the channel that its trace gives, where that has one."""
    channel = scenario.trace.channel
    if channel is None:
        return scenario
    return scenario.model_copy(update={"selector": scenario.selector.model_copy(update={"channel": channel})})
