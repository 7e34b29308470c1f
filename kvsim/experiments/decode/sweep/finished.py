"""Finished cells on disk, one file each, written whole or not at all: what a kill or a full disk cannot take back."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from kvsim.errors import ResultError
from kvsim.experiments.decode.entry import Entry
from kvsim.report.results import summary_json
from kvsim.scenario.digest import content_digest
from kvsim.scenario.whole_files import SUFFIX, replacing

_SUFFIX = ".json"
_STALE_AFTER_S = 3600.0
"""A temporary file as old as this was left by a process that was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedCell:
    """What became of one cell: its entry of ``summary.json``, or the error that ended it."""

    entry: Entry | None
    error: str | None
    """One line."""
    traceback: str | None = None
    """The traceback of an error that is not the scenario's."""


def cell_text(key: str, cell: FinishedCell) -> str:
    """Return the text of a cell's file: with its key and a digest, so that a torn file is known for one."""
    pairs = None if cell.entry is None else list(cell.entry.items())  # in order: verdicts name fields in it
    content = {"key": key, "entry": pairs, "error": cell.error, "traceback": cell.traceback}
    text = summary_json(content)
    return f"{content_digest(text)}\n{text}"


def parse_cell(key: str, text: str) -> FinishedCell | None:
    """Return what `text` says of the cell `key`, or None where it is damaged or speaks of another."""
    written, _, content = text.partition("\n")
    if written != content_digest(content):
        return None
    contents = json.loads(content)
    if contents.get("key") != key:
        return None
    pairs = contents["entry"]
    return FinishedCell(
        entry=None if pairs is None else cast("Entry", dict(pairs)),
        error=contents["error"],
        traceback=contents["traceback"],
    )


def read_cell(folder: Path, key: str) -> FinishedCell | None:
    """Return the cell `key` that `folder` keeps, or None where there is none, or a damaged one."""
    try:
        return parse_cell(key, (folder / f"{key}{_SUFFIX}").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def has_cell(folder: Path, key: str) -> bool:
    """Return whether `folder` has a file of the cell, damaged or not."""
    return (folder / f"{key}{_SUFFIX}").exists()


def write_cell(folder: Path, key: str, text: str) -> None:
    """Put a cell's `text` into `folder` under a temporary name and rename it: whole or not at all.

    Raises
    ------
    OSError
        If it cannot be written (a full disk); nothing of it is then left.
    """
    path = folder / f"{key}{_SUFFIX}"
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def make_folder(folder: Path) -> None:
    """Make the folder of cells, and clear it of what killed processes left half written.

    Raises
    ------
    ResultError
        If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for partial in folder.glob(f".*{SUFFIX}"):
            if time.time() - partial.stat().st_mtime > _STALE_AFTER_S:
                partial.unlink(missing_ok=True)
    except OSError as problem:
        raise ResultError(f"{folder}: cannot keep cells there: {problem.strerror}") from None
