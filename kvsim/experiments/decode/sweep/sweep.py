"""A whole grid of cells, shared out to processes or a cluster; every finished cell is on disk at once."""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from kvsim.errors import KvsimError, ResultError
from kvsim.experiments.decode.cell_runs import Progress, ignore
from kvsim.experiments.decode.cells import Cell, cells_of
from kvsim.experiments.decode.simulate import by_the_traces_channel, summary_from
from kvsim.experiments.decode.sources import BatchSources
from kvsim.experiments.decode.sweep.finished import KeptCell, has_cell, make_folder, parse_cell, read_cell, write_cell
from kvsim.experiments.decode.sweep.keys import cell_keys
from kvsim.experiments.decode.sweep.pieces import Piece, pieces_of, simulate_piece
from kvsim.experiments.decode.workers import in_worker
from kvsim.profile.provenance import make_manifest
from kvsim.report.results import RunResult
from kvsim.scenario.decode import Scenario

_CONNECT_S = 5.0

CELLS_FOLDER = "cells"
"""Beside the results of a scenario: its finished cells, by key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCell:
    """A cell without figures."""

    number: int
    """Its place among all cells of the scenario."""
    policy: str
    swept: dict[str, Any]
    fault: str
    """One line."""
    traceback: str | None
    """Where the fault is none of the scenario's."""

    def __str__(self) -> str:
        """Return the cell and its fault in a line."""
        where = ", ".join([self.policy, *(f"{key} = {value}" for key, value in self.swept.items())])
        return f"{where}: {self.fault}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a sweep found."""

    result: RunResult
    """The cells that have figures, without rows; the summary of a sweep without failures is that of `kvsim run`."""
    failed: tuple[FailedCell, ...]
    num_found: int
    """Cells that lay finished on disk."""
    num_simulated: int
    folder: Path
    """Where the finished cells are kept."""


def sweep(
    scenario: Scenario,
    folder: Path,
    *,
    text: str = "",
    command: str = "",
    beside: Path | None = None,
    num_workers: int | None = None,
    scheduler: str | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Sweep:
    """Simulate every cell of `scenario` that `folder` does not hold yet, and return all of them.

    Parameters
    ----------
    folder
        Where results go; finished cells are kept in ``<folder>/<scenario>/cells``, one file each.
    text, command
        The scenario file as it was read and what the user typed, for the manifest.
    beside
        Where relative paths of the scenario start, if not here.
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
    cells = cells_of(by_the_traces_channel(scenario), beside)
    keys = cell_keys(cells, beside)
    kept_in = (folder / scenario.name / CELLS_FOLDER).resolve()
    make_folder(kept_in)
    kept = {} if fresh else _finished(kept_in, keys)
    missing = {key: cell for key, cell in zip(keys, cells, strict=True) if key not in kept}
    sources = BatchSources(beside.resolve() if beside else None, None)
    workers = num_workers or os.cpu_count() or 1
    pieces = pieces_of(list(missing.items()), sources, workers, sweep=os.urandom(8).hex(), folder=kept_in)
    advance = progress or ignore
    _fit(missing.values(), sources)
    for texts in _shared_out(pieces, workers, scheduler, kept_in):
        for key, content in texts.items():
            kept[key] = _kept(kept_in, key, content)
        advance(len(texts) / len(missing))
    return _gather(scenario, cells, [kept[key] for key in keys], sources, text, command, len(missing), kept_in)


def _finished(folder: Path, keys: Sequence[str]) -> dict[str, KeptCell]:
    """Return the cells that have figures; failed ones are tried again."""
    found = {key: read_cell(folder, key) for key in dict.fromkeys(keys)}
    return {key: cell for key, cell in found.items() if cell is not None and cell.entry is not None}


def _kept(folder: Path, key: str, content: str) -> KeptCell:
    """Return a cell that a worker finished, and keep it where the worker's machine could not."""
    if not has_cell(folder, key):
        try:
            write_cell(folder, key, content)
        except OSError as problem:
            raise ResultError(f"{folder}: cannot keep a cell: {problem.strerror or problem}") from None
    cell = parse_cell(key, content)
    assert cell is not None  # made by cell_text for this key
    return cell


def _fit(cells: Iterable[Cell], sources: BatchSources) -> None:
    """Fit the generators that the cells read: once here, and not in every process. A fault is the cell's to tell."""
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
        with _backend(scheduler, min(num_workers, len(pieces))):
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


def _backend(scheduler: str | None, num_workers: int) -> AbstractContextManager[Any]:
    """Return who works: processes of this machine, or the workers of a cluster; arithmetic in one thread each."""
    chosen: dict[str, Any] = {"backend": "loky", "n_jobs": num_workers, "inner_max_num_threads": 1}
    if scheduler is not None:  # whose workers keep to one thread by themselves
        if importlib.util.find_spec("distributed") is None:
            raise KvsimError("--dask needs the package distributed: pip install distributed")
        _check_listens(scheduler)
        chosen = {"backend": "dask", "n_jobs": -1, "scheduler_host": scheduler}
    backend: AbstractContextManager[Any] = joblib.parallel_config(**chosen)
    return backend


def _check_listens(scheduler: str) -> None:
    """Refuse an address where nobody listens: dask itself tries for half a minute, and ends in a traceback.

    Raises
    ------
    KvsimError
        Saying what an address looks like, or why nobody answers there.
    """
    addressing = importlib.import_module("distributed.comm.addressing")
    try:
        protocol, place = addressing.parse_address(scheduler)
        host, port = addressing.parse_host_port(place)
    except ValueError:
        raise KvsimError(f"--dask {scheduler!r}: no address of a scheduler, as in tcp://10.0.0.1:8786") from None
    if protocol not in ("tcp", "tls"):
        return  # not for a plain socket to try
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise KvsimError(f"--dask {scheduler}: no scheduler listens there: {reason}") from None


def _gather(
    scenario: Scenario,
    cells: list[Cell],
    kept: list[KeptCell],
    sources: BatchSources,
    text: str,
    command: str,
    num_simulated: int,
    folder: Path,
) -> Sweep:
    failed = [
        FailedCell(
            number=number,
            policy=cell.choice.shown,
            swept=cell.swept,
            fault=str(found.fault),
            traceback=found.traceback,
        )
        for number, (cell, found) in enumerate(zip(cells, kept, strict=True))
        if found.entry is None
    ]
    done = [(cell, dict(found.entry)) for cell, found in zip(cells, kept, strict=True) if found.entry is not None]
    if not done:
        faults = list(dict.fromkeys(cell.fault for cell in failed))
        raise KvsimError("\n".join([f"{scenario.name}: all {len(cells)} cells failed:", *faults]))
    summary = summary_from(scenario, [cell for cell, _ in done], [entry for _, entry in done], sources)
    if failed:
        summary["failed"] = [
            {"cell": cell.number, "policy": cell.policy, **cell.swept, "fault": cell.fault} for cell in failed
        ]
    manifest = make_manifest(scenario_text=text, scenario_hash=scenario.hash, seed=scenario.run.seed, command=command)
    manifest |= {"accesses": sources.digests()}
    return Sweep(
        result=RunResult(summary=summary, rows={}, manifest=manifest),
        failed=tuple(failed),
        num_found=len(cells) - num_simulated,
        num_simulated=num_simulated,
        folder=folder,
    )
