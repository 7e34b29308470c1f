"""What a job of the reference measurement is, and the record it leaves: done, failed or left out, with its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kvsim.scenario.whole_files import write_whole

State = Literal["done", "failed", "left out", "not started"]


class LeftOutError(Exception):
    """A job that cannot be done here, with the reason: no fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What every job is told."""

    device: Literal["cpu", "cuda"]
    out: Path
    is_small: bool
    model: Path | None
    """The trained model; None where there is none."""
    attention_table: Path | None
    """The wheel or a Parquet file of aiconfigurator-core, or a folder that holds one."""
    key: str
    """What results depend on besides: machine, versions, code. Rows of another key are measured anew."""
    command: str

    def folder(self, part: str) -> Path:
        """Return the folder of a part, made if need be."""
        made = self.out / part
        made.mkdir(parents=True, exist_ok=True)
        return made

    def trained(self) -> Path:
        """Return the trained model, or leave the job out."""
        if self.model is None:
            raise LeftOutError("no trained model; `make model` writes one, --model names another")
        return self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a job found in a line, and the files it wrote."""

    headline: str
    files: Sequence[Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One piece of work whose files are written before it ends."""

    name: str
    """``part/name``."""
    limit_s: float
    run: Callable[[Setting], Outcome]
    is_cheap: bool = False
    """Made from what others left, in no time: done anew at every call."""

    @property
    def part(self) -> str:
        """The part it belongs to."""
        return self.name.partition("/")[0]


@dataclass(slots=True, kw_only=True)
class Record:
    """What became of a job, kept beside its files."""

    job: str
    state: State
    key: str
    seconds: float = 0.0
    headline: str = ""
    error: str = ""
    date: str = ""
    files: dict[str, str] = field(default_factory=dict)
    """Digest of each file by its path below the output folder."""


def record_path(out: Path, job: str) -> Path:
    """Return where the record of a job is."""
    return out / "jobs" / f"{job.replace('/', '-')}.json"


def write_record(out: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    write_json(record_path(out, record.job), asdict(record))


def read_record(out: Path, job: str) -> Record | None:
    """Return the record of a job; None where there is none that can be read."""
    try:
        return Record(**json.loads(record_path(out, job).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_finished(out: Path, job: str, key: str | None) -> bool:
    """Return whether a job is done and its files are as it left them.

    Parameters
    ----------
    key
        That the record must have; None where any will do.
    """
    record = read_record(out, job)
    if record is None or record.state != "done" or (key is not None and record.key != key):
        return False
    return all((out / name).is_file() and digest_of(out / name) == digest for name, digest in record.files.items())


def digest_of(path: Path) -> str:
    """Return the digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def write_json(path: Path, contents: Any) -> Path:
    """Write JSON, whole or not at all, and return its path."""
    return write_text(path, json.dumps(contents, indent=1, default=float))


def write_text(path: Path, text: str) -> Path:
    """Write a text, whole or not at all, and return its path."""
    write_whole(path, (text.rstrip("\n") + "\n").encode())
    return path
