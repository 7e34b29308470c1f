"""Simulated beside measured, of every experiment: the cells of one scenario, counts that are equal, errors of figures.

Of a figure ``<name>_s`` a cell has ``<name>_simulated_s``, ``<name>_measured_s`` and ``<name>_error_frac``, the first
over the second less 1; so with the other units (`side`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kvsim.errors import ResultError
from kvsim.report.diagonal import Panel, diagonal_figure
from kvsim.report.results import RunResult, records_parquet, summary_json
from kvsim.report.sides import SIDES, side, stem
from kvsim.report.style import png
from kvsim.report.tables import Column, is_missing, percent, records_csv, signed_percent, table_text
from kvsim.types import FloatArray

_MOST_LINES = 5
PROCESSOR_NOTE = ", which others on the machine do not lengthen (on a CPU and one thread only)"
"""What to know of an error against processor time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Simulated beside measured, as a command shows and keeps it."""

    contents: Mapping[str, Any]
    """What ``--json`` prints."""
    text: str
    files: Mapping[str, bytes]
    """Files for a folder, by name."""
    missed: tuple[str, ...] = ()
    """Targets that the simulation missed, by name: `kvsim crosscheck --strict` exits with 1 if there are any."""


def check_sides(simulated: RunResult, measured: RunResult) -> None:
    """Refuse two results that are not one simulated and one measured.

    Raises
    ------
    ResultError
        Saying which of the two is wrong.
    """
    if not measured.summary.get("is_measured"):
        raise ResultError("the second result was simulated; give one that `kvsim measure` wrote")
    if simulated.summary.get("is_measured"):
        raise ResultError("the first result was measured; give one that `kvsim run` wrote")


def check_pair(simulated: RunResult, measured: RunResult, digests: Mapping[str, str] | None = None) -> None:
    """Refuse two results that are not one simulated, one measured, of one scenario and of the same inputs.

    Parameters
    ----------
    digests
        Fields of both summaries with a digest of what was read, and what that is called.

    Raises
    ------
    ResultError
        Saying which, and what would be right.
    """
    check_sides(simulated, measured)
    ours, theirs = simulated.summary, measured.summary
    if ours["scenario_hash"] != theirs["scenario_hash"]:
        raise ResultError(
            f"the results are of different scenarios: {ours['scenario']} ({ours['scenario_hash']}) and "
            f"{theirs['scenario']} ({theirs['scenario_hash']}); simulate again with the measured one's scenario and "
            "options"
        )
    for name, what in (digests or {}).items():
        if ours[name] != theirs[name]:
            raise ResultError(
                f"the results are of different {what}; replay the measured ones: kvsim run SCENARIO --trace MEASURED"
            )


def side_by_side(name: str, simulated: Any, measured: Any) -> dict[str, Any]:
    """Return the fields of one figure: both sides and the error, None where there is nothing to err about."""
    error = simulated / measured - 1 if not is_missing(simulated) and not is_missing(measured) and measured else None
    return {side(name, "simulated"): simulated, side(name, "measured"): measured, f"{stem(name)}_error_frac": error}


def side_columns(name: str, title: str, text: Callable[[Any], str] = str) -> dict[str, Column]:
    """Return the columns of one figure, measured and simulated."""
    return {side(name, which): Column(title=f"{title}/{which}", text=text) for which in SIDES}


def agreement(what: str, is_equal: bool) -> str:
    """Return the line on whether counts are equal."""
    return f"{what} equal: {'yes' if is_equal else 'NO'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """What an experiment compares of its cells."""

    keys: tuple[str, ...]
    """Fields that say which cell it is."""
    figures: tuple[str, ...]
    """Compared with an error."""
    counts: tuple[str, ...]
    """Must be equal."""
    columns: Mapping[str, Column]
    """How keys and figures are printed."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """As in `check_pair`."""


class Comparison:
    """What becomes a `Compared`: a table of the cells, then line by line what else was compared."""

    def __init__(self, simulated: RunResult, measured: RunResult, fields: Fields) -> None:
        check_pair(simulated, measured, fields.digests)
        self._simulated, self._measured, self._fields = simulated, measured, fields
        self.cells: list[dict[str, Any]] = []
        unequal = []
        both = zip(simulated.summary["cells"], measured.summary["cells"], strict=True)
        for number, (sim, real) in enumerate(both):
            cell: dict[str, Any] = {"cell": number} | {key: real[key] for key in fields.keys}
            for name in fields.figures:
                cell |= side_by_side(name, sim[name], real[name])
            for name in fields.counts:
                cell |= {side(name, "simulated"): sim[name], side(name, "measured"): real[name]}
                if sim[name] != real[name]:
                    unequal.append(f"cell {number}: {name} is {sim[name]} simulated, {real[name]} measured")
            self.cells.append(cell)
        self.contents: dict[str, Any] = {"cells": self.cells, "counts_equal": not unequal}
        """What a program reads."""
        if unequal:
            self.contents["divergence"] = unequal[0]
        self.lines = [self._table(), "", agreement("counts", not unequal)]
        self.lines += [f"  {line}" for line in unequal[:_MOST_LINES]]
        for name in fields.figures:
            self.errors(stem(name), [cell[f"{stem(name)}_error_frac"] for cell in self.cells], self._title(name))

    def rows_equal(self, name: str, what: str, *columns: str) -> None:
        """Compare counts of every row; `name` is what a program reads."""
        sides = ((self._simulated.rows[column], self._measured.rows[column]) for column in columns)
        equal = all(np.array_equal(sim, real) for sim, real in sides)
        self.contents[name] = equal
        self.lines.append(agreement(what, equal))

    def row_errors(self, name: str, against: str | None = None) -> FloatArray:
        """Return the error of a time in every row, against the measured column of that name or of another one."""
        errors: FloatArray = self._simulated.rows[name] / self._measured.rows[against or name] - 1
        return errors

    def errors(self, name: str, errors: Iterable[float | None] | FloatArray, what: str, note: str = "") -> None:
        """Take in errors: ``<name>_median_error_frac`` of their sizes, the worst, and a line where there are some."""
        known = np.array([error for error in errors if not is_missing(error)], dtype=np.float64)
        median = worst = None
        if known.size:
            median, worst = float(np.median(np.abs(known))), float(known[np.argmax(np.abs(known))])
            self.lines.append(f"{what}: median error {percent(median)}, worst {signed_percent(worst)}{note}")
        self.contents |= {f"{name}_median_error_frac": median, f"{name}_worst_error_frac": worst}

    def answers(self, what: str) -> None:
        """Take in how far measured answers through a cache lie from those without one, in the worst of the cells."""
        cells = self._measured.summary["cells"]
        agree = min(cell["next_token_agreement_frac"] for cell in cells)
        apart = max(cell["max_logit_difference"] for cell in cells)
        self.contents |= {"next_token_agreement_frac": agree, "max_logit_difference": apart}
        self.lines.append(
            f"against no cache: same next token in {percent(agree, 0)} of the {what}, logits at most {apart:.3g} apart"
        )

    def compared(self, *, by: str) -> Compared:
        """Return it all, with a panel a figure coloured by the field `by`."""
        panels = [
            Panel(title=stem(name).replace("_", " "), name=name, cells=self.cells) for name in self._fields.figures
        ]
        title = f"{self._measured.summary['scenario']}: simulated against measured"
        return compared(self.contents, self.lines, self.cells, diagonal_figure(title, panels, color_by=by))

    def _table(self) -> str:
        columns = self._fields.columns
        shown: dict[str, Column] = {key: columns[key] for key in self._fields.keys}
        for name in self._fields.figures:
            title, text = self._title(name), columns[name].text
            shown |= side_columns(name, title, text)
            shown[f"{stem(name)}_error_frac"] = Column(title="/error", text=signed_percent)
        return table_text(self.cells, shown)

    def _title(self, name: str) -> str:
        return self._fields.columns[name].title.replace("/", " ").strip()


def compared(
    contents: Mapping[str, Any],
    lines: Sequence[str],
    cells: Sequence[Mapping[str, Any]],
    figure: Figure,
    *,
    name: str = "compare",
) -> Compared:
    """Return a comparison as a command shows and keeps it: as text and as files ``<name>.png``, ``.csv`` ..."""
    files = {
        "png": png(figure),
        "csv": records_csv(cells),
        "parquet": records_parquet(cells),
        "json": summary_json(contents).encode(),
    }
    named = {f"{name}.{kind}": content for kind, content in files.items()}
    return Compared(contents=contents, text="\n".join(lines), files=named)
