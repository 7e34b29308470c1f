"""A whole grid of cells, shared out to processes or a cluster; every finished cell is on disk at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from kvsim.errors import KvsimError, ResultError
from kvsim.experiments.decode.cells import Cell, Refused
from kvsim.experiments.decode.entry import Entry
from kvsim.experiments.decode.provenance import own_inputs
from kvsim.experiments.decode.simulate import build_cells
from kvsim.experiments.decode.sources import Sources
from kvsim.experiments.decode.summarise import simulated_summary
from kvsim.experiments.decode.sweep.finished import (
    FinishedCell,
    has_cell,
    make_folder,
    parse_cell,
    read_cell,
    write_cell,
)
from kvsim.experiments.decode.sweep.keys import cell_keys
from kvsim.experiments.decode.sweep.pieces import Piece, pieces_of, simulate_piece
from kvsim.experiments.decode.workers import cluster, in_worker, processes
from kvsim.experiments.provenance import manifest_of
from kvsim.experiments.types import Job
from kvsim.report.results import RunResult
from kvsim.scenario.decode import Scenario

CELLS_FOLDER = "cells"
"""Beside the results of a scenario: its finished cells, by key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCell:
    """A cell without figures."""

    number: int
    """Its place among all cells of the scenario."""
    policy: str
    swept: dict[str, Any]
    error: str
    """One line."""
    traceback: str | None
    """The traceback of an error that is not the scenario's."""

    def __str__(self) -> str:
        """Return the cell and its error in a line."""
        where = ", ".join([self.policy, *(f"{key} = {value}" for key, value in self.swept.items())])
        return f"{where}: {self.error}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep found."""

    result: RunResult
    """The cells that have figures, without rows; the summary of a sweep without failures is that of `kvsim run`."""
    failed: tuple[FailedCell, ...]
    num_reused: int
    """Cells that lay finished on disk."""
    num_simulated: int
    folder: Path
    """Where the finished cells are kept."""


def sweep(
    scenario: Scenario,
    folder: Path,
    job: Job,
    *,
    num_workers: int | None = None,
    scheduler: str | None = None,
    fresh: bool = False,
) -> Sweep:
    """Simulate every cell of `scenario` that `folder` does not hold yet, and return all of them.

    Parameters
    ----------
    folder
        Where results go; finished cells are kept in ``<folder>/<scenario>/cells``, one file each.
    num_workers
        Processes; as many as this machine has processors where absent. With 1, this process does all.
    scheduler
        Address of a dask scheduler whose workers do the work, as in ``tcp://10.0.0.1:8786``.
    fresh
        Simulate again what was kept.

    Raises
    ------
    KvsimError
        If no cell can be simulated at all, or a cell cannot be written; finished cells stay.
    """
    sources = Sources(job.base_dir.resolve() if job.base_dir else None)
    built = list(build_cells(scenario, job, sources))
    for one in built:
        if isinstance(one, Refused) and not one.is_for_length:
            raise one.error
    cells = [cell for cell in built if isinstance(cell, Cell)]
    keys = cell_keys(cells, job.base_dir)
    cells_folder = (folder / scenario.name / CELLS_FOLDER).resolve()
    make_folder(cells_folder)
    outcome_of = {} if fresh else _finished(cells_folder, keys)
    missing = {key: cell for key, cell in zip(keys, cells, strict=True) if key not in outcome_of}
    workers = num_workers or os.cpu_count() or 1
    pieces = pieces_of(list(missing.items()), sources, workers, sweep=os.urandom(8).hex(), folder=cells_folder)
    _fit(missing.values(), sources)
    for texts in _shared_out(pieces, workers, scheduler, cells_folder):
        for key, content in texts.items():
            outcome_of[key] = _written(cells_folder, key, content)
        job.progress(len(texts) / len(missing))
    by_key = iter(keys)
    outcomes = [
        FinishedCell(entry=None, error="; ".join(str(one.error).splitlines()))
        if isinstance(one, Refused)
        else outcome_of[next(by_key)]
        for one in built
    ]
    result, failed = _gathered(scenario, job, built, outcomes, sources)
    return Sweep(
        result=result,
        failed=failed,
        num_reused=len(cells) - len(missing),
        num_simulated=len(missing),
        folder=cells_folder,
    )


def _finished(folder: Path, keys: Sequence[str]) -> dict[str, FinishedCell]:
    """Return the cells that have figures; failed ones are tried again."""
    stored = {key: read_cell(folder, key) for key in dict.fromkeys(keys)}
    return {key: cell for key, cell in stored.items() if cell is not None and cell.entry is not None}


def _written(folder: Path, key: str, content: str) -> FinishedCell:
    """Return a cell that a worker finished, and keep it where the worker's machine could not."""
    if not has_cell(folder, key):
        try:
            write_cell(folder, key, content)
        except OSError as problem:
            raise ResultError(f"{folder}: cannot keep a cell: {problem.strerror or problem}") from None
    cell = parse_cell(key, content)
    assert cell is not None  # made by cell_text for this key
    return cell


def _fit(cells: Iterable[Cell], sources: Sources) -> None:
    """Fit the generators that the cells read: once here, and not in every process. The cell itself reports an error."""
    for cell in cells:
        if cell.scenario.trace.extrapolate is not None:
            with suppress(KvsimError):
                sources.fit(cell.scenario)


def _shared_out(pieces: list[Piece], num_workers: int, scheduler: str | None, folder: Path) -> Iterator[dict[str, str]]:
    """Yield what each piece made, as it is finished."""
    if not pieces:
        return
    if scheduler is None and (num_workers == 1 or len(pieces) == 1):
        yield from map(simulate_piece, pieces)
        return
    try:
        with processes(min(num_workers, len(pieces))) if scheduler is None else cluster(scheduler):
            parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="3*n_jobs")
            if scheduler is not None:  # whose workers are nobody's children
                yield from parallel(joblib.delayed(simulate_piece)(piece) for piece in pieces)
            else:
                yield from parallel(joblib.delayed(in_worker)(os.getpid(), simulate_piece, piece) for piece in pieces)
    except TerminatedWorkerError:
        raise KvsimError(
            f"a worker process was killed, probably for lack of memory; the finished cells are kept in {folder}: "
            "run the same command again with fewer --workers"
        ) from None
    except KvsimError:
        raise
    except Exception as problem:
        if scheduler is None:
            raise
        reason = " ".join(f"{type(problem).__name__}: {problem}".split())
        raise KvsimError(f"--dask {scheduler}: {reason}; the finished cells are kept in {folder}") from None


def _gathered(
    scenario: Scenario, job: Job, cells: Sequence[Cell | Refused], outcomes: Sequence[FinishedCell], sources: Sources
) -> tuple[RunResult, tuple[FailedCell, ...]]:
    """Return the cells that have figures as a result, and what became of the others."""
    failed: list[FailedCell] = []
    done: list[tuple[Cell, Entry]] = []
    for number, (cell, outcome) in enumerate(zip(cells, outcomes, strict=True)):
        if isinstance(cell, Cell) and outcome.entry is not None:
            done.append((cell, outcome.entry.copy()))
            continue
        failed.append(
            FailedCell(
                number=number,
                policy=cell.choice.shown,
                swept=cell.swept,
                error=str(outcome.error),
                traceback=outcome.traceback,
            )
        )
    if not done:
        errors = list(dict.fromkeys(cell.error for cell in failed))
        raise KvsimError("\n".join([f"{scenario.name}: all {len(cells)} cells failed:", *errors]))
    own = [cell for cell, _ in done]
    summary = simulated_summary(scenario, own, [entry for _, entry in done], sources.fit)
    if failed:
        summary["failed"] = [
            {"cell": cell.number, "policy": cell.policy, **cell.swept, "error": cell.error} for cell in failed
        ]
    manifest = manifest_of(scenario, job, seed=scenario.run.seed, more=own_inputs(own, None))
    manifest |= {"accesses": sources.digests()}
    return RunResult(summary=summary, rows={}, manifest=manifest), tuple(failed)
