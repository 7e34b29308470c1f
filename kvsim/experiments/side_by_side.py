"""Several results of one experiment side by side: cells that agree in their keys are one row, with all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from string import ascii_uppercase
from typing import Any

from kvsim.errors import ResultError
from kvsim.experiments.pages import kind_of, parts_of
from kvsim.report.html.cell_charts import groups_of, scale_of, value_name, with_unit
from kvsim.report.html.charts import Chart, View, bars_height, bars_layout, palette_looks, rows_of_bars
from kvsim.report.html.page import Page
from kvsim.report.html.provenance import limitations_of, provenance_of
from kvsim.report.html.tables import Table
from kvsim.report.results import RunResult
from kvsim.report.sides import stem
from kvsim.report.tables import Column, is_missing, signed_percent, table_text

_MAX_BARS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """Results by label, and their cells in common rows.

    Of the figure ``tpot_p50_s`` a row has ``<label>.tpot_p50_s`` for each label and, from the second label on,
    ``<label>.tpot_p50_change_frac``, relative to the first.
    """

    results: Mapping[str, RunResult]
    folders: Mapping[str, Path]
    keys: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Column]
    figures: Mapping[str, str]
    """Titles by field."""

    @property
    def text(self) -> str:
        """What the terminal shows."""
        legend = [f"{label}: {folder}" for label, folder in self.folders.items()]
        return "\n".join([*legend, "", table_text(self.rows, self.columns)])


def side_by_side(results: Mapping[Path, RunResult]) -> SideBySide:
    """Return results side by side, in the order given.

    Raises
    ------
    ResultError
        If they are of different experiments.
    """
    kinds = list(dict.fromkeys(map(kind_of, results.values())))
    if len(kinds) > 1:
        raise ResultError(f"the results are of different experiments: {', '.join(kinds)}; compare those of one")
    labels = _labels(results)
    parts = [parts_of(result) for result in results.values()]
    keys = list(dict.fromkeys(key for part in parts for key in part.keys))
    columns = {key: column for part in parts for key, column in part.columns.items()}
    figures = {name: columns[name].title if name in columns else name for name in parts[0].figures}
    labelled = dict(zip(labels, results.values(), strict=True))
    return SideBySide(
        results=labelled,
        folders=dict(zip(labels, results, strict=True)),
        keys=keys,
        rows=_rows(labelled, keys, list(figures)),
        columns=_columns(labels, keys, figures, columns),
        figures={name: title.replace("/", " ").strip() for name, title in figures.items()},
    )


def side_by_side_page(table: SideBySide) -> Page:
    """Return the page of several results."""
    scenarios = list(dict.fromkeys(str(result.summary["scenario"]) for result in table.results.values()))
    verdict = _changes(table)
    for label, result in table.results.items():
        first, *others = [*map(str, result.summary.get("verdict", ())), ""]
        verdict += [line for line in (f"{label}: {first}", *others) if line]
    limits = dict.fromkeys(line for result in table.results.values() for line in limitations_of(result.summary))
    return Page(
        title=", ".join(scenarios),
        kind=f"kvsim compare: {kind_of(next(iter(table.results.values())))}, {len(table.results)} results",
        facts={label: _description(result) for label, result in table.results.items()},
        verdict=verdict,
        tables=[Table(title="Side by side", rows=table.rows, columns=table.columns, legend=_LEGEND)],
        charts=[_chart(table, name, title) for name, title in table.figures.items()],
        limitations=list(limits),
        provenance=[
            provenance_of(result.summary, result.manifest, title=label) for label, result in table.results.items()
        ],
    )


def _changes(table: SideBySide) -> list[str]:
    """Return a line for each figure of each further result: how it changes relative to the first."""
    first, *others = table.results
    lines = []
    for label in others:
        for name, title in table.figures.items():
            changes = [row.get(f"{label}.{stem(name)}_change_frac") for row in table.rows]
            known = [change for change in changes if change is not None]
            if known:
                middle = signed_percent(median(known))
                ends = f"{signed_percent(min(known))} to {signed_percent(max(known))}"
                lines.append(
                    f"{title}, {label} against {first}: {middle} in the median of {len(known)} cells ({ends})."
                )
    return lines


_LEGEND = "change: relative to the first result. -: does not apply, or the result has no such cell."


def _labels(results: Mapping[Path, RunResult]) -> list[str]:
    """Return the scenarios' names, with a letter where two have the same."""
    names = [str(result.summary["scenario"]) for result in results.values()]
    if len(set(names)) == len(names):
        return names
    letters = [*ascii_uppercase, *map(str, range(len(ascii_uppercase), len(names)))]
    return [f"{letter} {name}" for letter, name in zip(letters, names, strict=False)]


def _rows(results: Mapping[str, RunResult], keys: Sequence[str], figures: Sequence[str]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    first = next(iter(results))
    for label, result in results.items():
        for cell in result.summary["cells"]:
            row = rows.setdefault(tuple(str(cell.get(key)) for key in keys), {key: cell.get(key) for key in keys})
            for name in figures:
                value, base = cell.get(name), row.get(f"{first}.{name}")
                row[f"{label}.{name}"] = value
                if label != first:
                    known = base and not is_missing(value) and not is_missing(base)
                    row[f"{label}.{stem(name)}_change_frac"] = value / base - 1 if known else None
    return list(rows.values())


def _columns(
    labels: Sequence[str], keys: Sequence[str], figures: Mapping[str, str], columns: Mapping[str, Column]
) -> dict[str, Column]:
    shown = {key: columns.get(key, Column(title=f"/{key.rpartition('.')[2]}")) for key in keys}
    for name, title in figures.items():
        for label in labels:
            text = columns[name].text if name in columns else str
            shown[f"{label}.{name}"] = Column(title=f"{title.replace('/', ' ').strip()}/{label}", text=text)
            if label != labels[0]:
                shown[f"{label}.{stem(name)}_change_frac"] = Column(title="/change", text=signed_percent)
    return shown


def _chart(table: SideBySide, name: str, title: str) -> Chart:
    """Return a figure as bars: a group for each value of the first key, a bar a result, a view for the other keys."""
    factor, unit = scale_of(
        name,
        [
            row[f"{label}.{name}"]
            for label in table.results
            for row in table.rows
            if not is_missing(row.get(f"{label}.{name}"))
        ],
    )
    looks = palette_looks(table.results)
    views = []
    for view_name, rows in groups_of(table.rows, table.keys[1:]).items():
        labels = [_label(table.keys[0], row) for row in rows[:_MAX_BARS]]
        traces = [
            rows_of_bars(
                label,
                labels,
                [_scaled(row.get(f"{label}.{name}"), factor) for row in rows[:_MAX_BARS]],
                looks[label].color,
            )
            for label in table.results
        ]
        views.append(View(name=view_name, traces=traces, layout=bars_layout(with_unit(title, unit))))
    most = max(len(view.traces) * len(view.traces[0]["y"]) for view in views)
    return Chart(title=title, views=views, choice="Cells with", height_pixels=bars_height(most))


def _label(key: str, row: Mapping[str, Any]) -> str:
    return str(row[key]) if isinstance(row[key], str) else value_name(key, row[key])


def _scaled(value: Any, factor: float) -> float | None:
    return None if is_missing(value) else float(value) / factor


def _description(result: RunResult) -> str:
    summary = result.summary
    how = "measured" if summary.get("is_measured") else f"simulated, {(summary.get('profile') or {}).get('name', '')}"
    return f"{how}, {str(result.manifest.get('date') or '')[:10]}"
