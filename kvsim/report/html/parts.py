"""What an experiment adds to the page of a result, and what a page shows where an experiment adds nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvsim.report.html.cell_charts import bars_of, lines_over
from kvsim.report.html.charts import Chart
from kvsim.report.html.tables import Table, own_columns
from kvsim.report.results import RunResult
from kvsim.report.tables import Column

_MOST_FIGURES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The part of a page that depends on the experiment."""

    columns: Mapping[str, Column]
    """Of the table of cells, as printed."""
    keys: Sequence[str]
    """Fields that say which cell it is."""
    figures: Sequence[str]
    """Fields by which results are compared."""
    charts: Sequence[Chart] = ()
    legend: str = ""
    """Of the table of cells."""
    tables: Sequence[Table] = ()
    """Others than that of the cells."""
    limitations: Sequence[str] = field(default=())
    """What the figures leave out, besides what the verdict and the profile say."""


def own_parts(result: RunResult) -> Parts:
    """Return what can be shown of any result: all figures of its cells, and the first of them as pictures."""
    cells, swept = result.summary["cells"], list(map(str, result.summary.get("swept", ())))
    texts = [name for name in dict.fromkeys(name for cell in cells for name in cell) if _is_word(cells, name)]
    keys = list(dict.fromkeys([*texts, *swept]))
    figures = [name for name in own_columns(cells) if name not in keys and _is_figure(cells, name)][:_MOST_FIGURES]
    columns = own_columns(cells, keys)
    return Parts(
        columns=columns,
        keys=keys,
        figures=figures,
        charts=charts_of(cells, {name: columns[name].title for name in figures}, keys=keys),
    )


def charts_of(
    cells: Sequence[Mapping[str, Any]],
    figures: Mapping[str, str],
    *,
    keys: Sequence[str],
    over: str | None = None,
    over_title: str = "",
    series: Callable[[Any], str] | None = None,
) -> list[Chart]:
    """Return an interactive figure for each of `figures`, titles by field.

    Parameters
    ----------
    keys
        Fields that say which cell it is. The reader chooses the values of those without which a line would have two
        points at one place.
    over
        The field of the axis; the first key of several numbers where None, and bars where there is none.
    series
        What a line is called; the first key that is a word where None.
    """
    numeric = [key for key in keys if _num_numbers(cells, key) > 1]
    over = over or next(iter(numeric), None)
    word = next((key for key in keys if _is_word(cells, key)), None)
    name_of = series or (lambda cell: str(cell.get(word, "all cells")) if word else "all cells")
    others = [] if over is None else _keys_apart(cells, [key for key in keys if key != over], name_of, over)
    charts = []
    for name, title in figures.items():
        if all(not isinstance(cell.get(name), int | float) for cell in cells):
            continue
        if over is None:
            charts.append(bars_of(cells, name, title, name_of))
        else:
            charts.append(lines_over(cells, name, title, name_of, over=over, over_title=over_title, views_by=others))
    return charts


def _keys_apart(
    cells: Sequence[Mapping[str, Any]], keys: Sequence[str], name_of: Callable[[Mapping[str, Any]], str], over: str
) -> list[str]:
    """Return the keys that are needed besides series and axis to keep the cells apart."""
    chosen: list[str] = []

    def num_apart(more: Sequence[str]) -> int:
        return len({(name_of(cell), cell.get(over), *(str(cell.get(key)) for key in more)) for cell in cells})

    for key in keys:
        if num_apart([*chosen, key]) > num_apart(chosen):
            chosen.append(key)
    return chosen


def _is_word(cells: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(isinstance(cell.get(name), str) for cell in cells) and bool(cells)


def _is_figure(cells: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = {cell.get(name) for cell in cells if isinstance(cell.get(name), float)}
    return len(values) > 1


def _num_numbers(cells: Sequence[Mapping[str, Any]], name: str) -> int:
    values = [cell.get(name) for cell in cells]
    return len({value for value in values if isinstance(value, int | float) and not isinstance(value, bool)})
