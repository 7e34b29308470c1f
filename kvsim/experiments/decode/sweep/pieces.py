"""The work of a sweep in pieces for processes: cells that read the same together, each kept once it is finished."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from kvsim.errors import KvsimError, ResultError
from kvsim.experiments.decode.cells import Cell
from kvsim.experiments.decode.needs import check_needs
from kvsim.experiments.decode.outside_profile import beyond_profile
from kvsim.experiments.decode.simulate import same_run, simulate_cell
from kvsim.experiments.decode.sources import Sources
from kvsim.experiments.decode.summarise import simulated_entry
from kvsim.experiments.decode.sweep.finished import FinishedCell, cell_text, write_cell
from kvsim.experiments.types import ignore

PIECES_PER_WORKER = 32
"""So many, that the last ones end together and a bar moves; not more, so that handing them out costs nothing."""
MAX_PIECE_RUNS = 16

Run: TypeAlias = tuple[tuple[str, Cell], ...]
"""Cells of the same rows, each with its key: they are simulated once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one process is given at a time: paths and values, no arrays."""

    runs: tuple[Run, ...]
    sources: Sources
    """With generators fitted and nothing open."""
    sweep: str
    """Distinguishes sweeps in a process that outlives both."""
    folder: Path
    """Where finished cells are kept."""


def pieces_of(
    keyed: Sequence[tuple[str, Cell]], sources: Sources, num_workers: int, *, sweep: str, folder: Path
) -> list[Piece]:
    """Return the cells in pieces, in an order that depends on the scenario alone; those that read the same in a row."""
    groups: dict[object, dict[tuple[str, str], list[tuple[str, Cell]]]] = {}
    for key, cell in keyed:
        group = groups.setdefault(sources.reads(cell, cell.scenario.run.seed), {})
        group.setdefault(same_run(cell), []).append((key, cell))
    num_runs = sum(map(len, groups.values()))
    size = max(1, min(MAX_PIECE_RUNS, -(-num_runs // (num_workers * PIECES_PER_WORKER))))
    pieces = []
    for group in groups.values():
        runs = [tuple(members) for members in group.values()]
        pieces += [tuple(runs[start : start + size]) for start in range(0, len(runs), size)]
    return [Piece(runs=runs, sources=sources.unopened(), sweep=sweep, folder=folder) for runs in pieces]


def simulate_piece(piece: Piece) -> dict[str, str]:
    """Simulate the cells of a piece and return the text of each by key.

    Each is written into the piece's folder at once, where there is such a folder on the machine that runs this. A cell
    that fails is written with its error.

    Raises
    ------
    ResultError
        If a cell cannot be written.
    """
    sources = _sources_here(piece)
    texts: dict[str, str] = {}
    for run in piece.runs:
        for (key, _), outcome in zip(run, _outcomes(run, sources), strict=True):
            texts[key] = cell_text(key, outcome)
            try:
                if piece.folder.is_dir():
                    write_cell(piece.folder, key, texts[key])
            except OSError as problem:
                raise ResultError(f"{piece.folder}: cannot keep a cell: {problem.strerror or problem}") from None
    return texts


def _outcomes(run: Run, sources: Sources) -> list[FinishedCell]:
    """Return what became of cells that share their rows: each its entry, or all the error."""
    try:
        cell = run[0][1]
        for _, other in run:
            other.check_budget()
            check_needs(other)
            beyond_profile([other])
        rows = simulate_cell(cell, sources, ignore)
        return [FinishedCell(entry=simulated_entry(other, rows), error=None) for _, other in run]
    except KvsimError as problem:
        lines = str(problem).splitlines()
        error = "; ".join(line for line in lines if not line.startswith(" "))  # others are code: of a plug-in
        code = str(problem) if any(line.startswith(" ") for line in lines) else None
        return [FinishedCell(entry=None, error=error, traceback=code)] * len(run)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}".splitlines()[0]
        return [FinishedCell(entry=None, error=error, traceback=traceback.format_exc())] * len(run)


_here = threading.local()
"""What this thread read last: the next piece mostly reads the same. A worker of a cluster may have several threads."""


def _sources_here(piece: Piece) -> Sources:
    if getattr(_here, "sweep", None) != piece.sweep:
        _here.sweep, _here.sources = piece.sweep, piece.sources
    sources: Sources = _here.sources
    return sources
