"""The wiring: a scenario in, a simulated result out. Needs no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from kvsim.errors import KvsimError, ScenarioError
from kvsim.experiments.decode.cell_runs import Progress, Rows, cell_entry, ignore, input_of, same_run, simulate_cell
from kvsim.experiments.decode.cells import Cell, cell_at, cells_of, check_budget, compare_to_resident, summarise
from kvsim.experiments.decode.outside_profile import beyond_profile, tell_ranges
from kvsim.experiments.decode.sources import BatchSources
from kvsim.profile.profile import Profile
from kvsim.profile.provenance import make_manifest
from kvsim.report.results import RunResult
from kvsim.report.timeline import TimedRun
from kvsim.scenario.decode import Scenario
from kvsim.sim import Timeline, simulate_decode

MIN_DECISIONS_FOR_PROCESSES = 20_000
"""Below, starting processes takes longer than they save."""


def simulate(
    scenario: Scenario,
    *,
    text: str = "",
    command: str = "",
    beside: Path | None = None,
    progress: Progress | None = None,
    recorded: Callable[[Scenario], Path] | None = None,
    change: Callable[[Profile], Profile] | None = None,
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
    change
        What to make of each profile first, for hardware that one does not have.

    Raises
    ------
    KvsimError
        If the profile, the trace, a policy or the budget does not fit the scenario.
    """
    cells = cells_of(scenario if recorded else by_the_traces_channel(scenario), beside)
    if recorded:
        cells = [_as_long_as_measured(cell) for cell in cells]
    if change:
        cells = [dataclasses.replace(cell, profile=change(cell.profile)) for cell in cells]
    sources = BatchSources(beside, recorded)
    contexts_tokens = [sources.last_context(cell) for cell in cells]
    for cell, context_tokens in zip(cells, contexts_tokens, strict=True):
        check_budget(cell, context_tokens)
    beyond_profile(cells, contexts_tokens)  # refuses before the first step what no table can tell
    rows_of = _simulate_all(cells, sources, progress or ignore)
    tables: list[Rows] = []
    for number, cell in enumerate(cells):
        size = rows_of[number]["step"].size
        named: Rows = {
            "cell": np.full(size, number, dtype=np.int64),
            "policy": np.array([cell.choice.shown] * size, dtype=object),
        }
        tables.append(named | rows_of[number])
    entries = [cell_entry(cell, rows) for cell, rows in zip(cells, rows_of, strict=True)]
    return RunResult(
        summary=summary_from(scenario, cells, entries, sources),
        rows={name: np.concatenate([table[name] for table in tables]) for name in tables[0]},
        manifest=make_manifest(scenario_text=text, scenario_hash=scenario.hash, seed=scenario.run.seed, command=command)
        | {"accesses": sources.digests(), "texts": sources.texts()},
    )


def summary_from(
    scenario: Scenario, cells: list[Cell], entries: list[dict[str, Any]], sources: BatchSources
) -> dict[str, Any]:
    """Return ``summary.json`` of a scenario from its cells' entries, which are completed on the way."""
    compare_to_resident(entries, cells)
    beyond = beyond_profile(cells, [sources.last_context(cell) for cell in cells])
    return tell_ranges(summarise(scenario, cells, entries), beyond, cells)


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
    cell = cell_at(scenario if recorded else by_the_traces_channel(scenario), number, beside)
    sources = BatchSources(beside, recorded)
    check_budget(cell, sources.last_context(cell))
    beyond_profile([cell], [sources.last_context(cell)])
    seed = cell.scenario.run.seed
    replay = sources.of(cell, seed)
    advance = progress or ignore
    timeline = Timeline()
    rows = simulate_decode(input_of(cell, replay, seed), lambda steps: advance(steps / replay.num_steps), timeline)
    return TimedRun(name="simulated", spans=timeline.spans, rows=rows)


def check_scenario(scenario: Scenario, beside: Path | None = None) -> int:
    """Check everything that a run would find at fault before its first step, and return the number of cells.

    Raises
    ------
    KvsimError
        With a line for every fault.
    """
    cells = cells_of(by_the_traces_channel(scenario), beside)
    sources = BatchSources(beside, None)
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
    cells = cells_of(by_the_traces_channel(scenario), beside)
    sources = BatchSources(beside, None)
    return [str(found) for found in beyond_profile(cells, [sources.last_context(cell) for cell in cells])]


def _as_long_as_measured(cell: Cell) -> Cell:
    """Return the cell replaying as many steps as are measured: a capture may hold more."""
    scenario = cell.scenario
    if scenario.measure is None or scenario.trace.num_steps is not None:
        return cell
    trace = scenario.trace.model_copy(update={"num_steps": scenario.measure.num_steps})
    return dataclasses.replace(cell, scenario=scenario.model_copy(update={"trace": trace}))


def by_the_traces_channel(scenario: Scenario) -> Scenario:
    """Return the scenario selecting by what its trace says to select by, where nothing was recorded of its own."""
    channel = scenario.trace.channel
    if channel is None:
        return scenario
    return scenario.model_copy(update={"selector": scenario.selector.model_copy(update={"channel": channel})})


def _simulate_all(cells: list[Cell], sources: BatchSources, progress: Progress) -> list[Rows]:
    """Return the rows of every cell; cells that do not differ in what their rows depend on are simulated once.

    Long work is shared out to processes, in pieces of cells that read the same.
    """
    first: dict[tuple[str, str], int] = {}
    for number, cell in enumerate(cells):
        first.setdefault(same_run(cell), number)
    distinct = list(first.values())
    num_workers = min(os.cpu_count() or 1, len(distinct))
    work = sum(sources.num_decisions(cells[number]) for number in distinct)
    if num_workers == 1 or work < MIN_DECISIONS_FOR_PROCESSES:
        done = {}
        for number in distinct:
            done[number] = simulate_cell(cells[number], sources, lambda share: progress(share / len(distinct)))
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
    return [done[first[same_run(cell)]] for cell in cells]


def _pieces(cells: list[Cell], numbers: list[int], num_workers: int) -> list[list[int]]:
    """Return the cells in pieces of one page size, context and batch each, the longest context first."""
    groups: dict[tuple[str, int, int], list[int]] = {}
    for number in numbers:
        scenario = cells[number].scenario
        key = scenario.trace.model_dump_json(), scenario.page_tokens, scenario.run.batch
        groups.setdefault(key, []).append(number)
    pieces = [group[start::num_workers] for group in groups.values() for start in range(num_workers)]
    return [piece for piece in reversed(pieces) if piece]


def _simulate_piece(numbered: list[tuple[int, Cell]], sources: BatchSources) -> dict[int, Rows]:
    return {number: simulate_cell(cell, sources, ignore) for number, cell in numbered}
