"""What the library returns: a result and a comparison, as tables to go on with and as text to read."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvsim.experiments.pages import report_file
from kvsim.experiments.registry import experiment_of, load_experiment
from kvsim.report.comparison import Compared
from kvsim.report.frames import Frame, cells_frame, html_table, records_frame, rows_frame
from kvsim.report.results import RunResult, write_picture, write_result
from kvsim.report.results import load_result as load_run


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Result:
    """A simulated or measured result; printed, it is the table that the command line prints."""

    run: RunResult
    """The summary, the rows and the manifest as a folder holds them."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What a measurement recorded on the way, by name; `save` writes it, too."""

    @property
    def experiment(self) -> str:
        """The name of the experiment that made it."""
        return experiment_of(self.run)

    @property
    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds."""
        return self.run.summary

    @property
    def manifest(self) -> dict[str, Any]:
        """Where, when and from what it was made: the resolved scenario, digests of what was read, versions."""
        return self.run.manifest

    @property
    def cells(self) -> Frame:
        """A row for each cell, units in the names of the columns; a figure that does not apply is None or NaN."""
        first = load_experiment(self.experiment).first_columns
        return cells_frame(self.summary, first(self.summary) if first else None)

    @property
    def steps(self) -> Frame:
        """The rows of the run, each with the number of its cell: steps of decode, or requests or calls elsewhere."""
        return rows_frame(self.run.rows)

    @property
    def verdict(self) -> str:
        """What the figures come to, in words."""
        return "\n\n".join(self.summary.get("verdict", ()))

    def figures(self) -> dict[str, bytes]:
        """Return the pictures by file name, as PNG."""
        return load_experiment(self.experiment).figures(self.run)

    def save(self, folder: Path | str = "results", *, figures: bool = False) -> Path:
        """Write the result into a new folder in ``folder/<scenario>``, and return that.

        Raises
        ------
        ResultError
            If it cannot be written; nothing of it is then left.
        """
        drawn = {**self.figures(), **report_file(self.run)} if figures else {}
        return write_result(self.run, Path(folder), {**self.files, **drawn})

    def __str__(self) -> str:
        return load_experiment(self.experiment).show(self.summary)

    def __repr__(self) -> str:
        kind = "measured" if self.summary.get("is_measured") else "simulated"
        return f"<{kind} result of {self.summary['scenario']}: {len(self.summary['cells'])} cells>"

    def _repr_html_(self) -> str:
        return _as_html(repr(self), self.cells, list(self.summary.get("verdict", ())))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison:
    """A simulated result compared with a measured one."""

    compared: Compared

    @property
    def figures(self) -> Mapping[str, Any]:
        """Whether counts are equal, and the errors of the figures, by name."""
        return {name: value for name, value in self.compared.contents.items() if not isinstance(value, list)}

    @property
    def cells(self) -> Frame:
        """A row for each cell, simulated and measured figures with their errors."""
        contents = self.compared.contents
        return records_frame(contents.get("cells", contents.get("out_of_sample_cells", [])))

    def save(self, folder: Path | str) -> list[Path]:
        """Write the cells as CSV, JSON and a picture into a folder, and return the files."""
        return [write_picture(content, Path(folder), name) for name, content in self.compared.files.items()]

    def __str__(self) -> str:
        return self.compared.text

    def __repr__(self) -> str:
        return f"<comparison of {len(self.cells)} cells>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def load_result(folder: Path | str) -> Result:
    """Return the result in a folder.

    Raises
    ------
    ResultError
        If it is missing, truncated, changed since it was written, or of another version.
    """
    return Result(run=load_run(Path(folder)))


def _as_html(title: str, frame: Frame, lines: list[str]) -> str:
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f"<p>{html.escape(title)}</p>{html_table(frame)}{paragraphs}"
