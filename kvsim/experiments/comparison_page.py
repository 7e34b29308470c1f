"""A comparison of simulated and measured as a page: the errors of the figures, and the cells, in a table and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kvsim.experiments.pages import kind_of
from kvsim.report.comparison import Compared
from kvsim.report.html.cell_charts import scale_of, with_unit
from kvsim.report.html.charts import Chart, Trace, View, dots, looks_of, value_axis
from kvsim.report.html.page import Page, Provenance, page_html
from kvsim.report.html.provenance import limitations_of, provenance_of
from kvsim.report.html.tables import Table, own_columns
from kvsim.report.results import RunResult
from kvsim.report.sides import UNITS
from kvsim.report.tables import is_missing, percent, signed_percent

_SIDES = ("_measured", "_simulated")
_MEDIAN, _WORST = "_median_error_frac", "_worst_error_frac"


def with_page(simulated: RunResult, measured: RunResult, compared: Compared) -> Compared:
    """Return a comparison whose files have a page as well, named as the others are."""
    name = next(name.rpartition(".")[0] for name in compared.files if name.endswith(".json"))
    page = page_html(comparison_page(simulated, measured, compared))
    return replace(compared, files={**compared.files, f"{name}.html": page})


def comparison_page(simulated: RunResult, measured: RunResult, compared: Compared) -> Page:
    """Return the page of a comparison."""
    contents = compared.contents
    cells = contents.get("cells") or contents.get("out_of_sample_cells") or []
    sides = {"simulated": simulated, "measured": measured}
    return Page(
        title=f"{simulated.summary['scenario']}: simulated against measured",
        kind=f"kvsim compare: {kind_of(simulated)}",
        question=str(simulated.summary.get("question") or ""),
        facts={
            "Cells": f"{len(cells):,}",
            "Costs": str((simulated.summary.get("profile") or {}).get("name", "")),
            "Measured on": str((measured.manifest.get("machine") or {}).get("processor", "")),
            "Measured": str(measured.manifest.get("date") or "")[:10],
        },
        verdict=_verdict(contents, compared.missed),
        tables=[Table(title="Cells", rows=cells, columns=own_columns(cells, list(cells[0]) if cells else []))],
        charts=_charts(cells),
        limitations=list(dict.fromkeys(line for one in sides.values() for line in limitations_of(one.summary)[:-1]))
        + ["The errors hold for this machine and these cells."],
        provenance=[
            *(provenance_of(one.summary, one.manifest, title=side.capitalize()) for side, one in sides.items()),
            Provenance(title="", facts={}, texts={"The comparison as it is printed": compared.text}),
        ],
    )


def _verdict(contents: Mapping[str, Any], missed: Sequence[str]) -> list[str]:
    lines = []
    if "counts_equal" in contents:
        lines.append(f"Counts equal: {'yes' if contents['counts_equal'] else 'NO'}.")
    if contents.get("divergence"):
        lines.append(f"First divergence: {contents['divergence']}.")
    for name, median in contents.items():
        if name.endswith(_MEDIAN) and not is_missing(median):
            figure = name.removesuffix(_MEDIAN)
            worst = contents.get(f"{figure}{_WORST}")
            lines.append(
                f"{figure.replace('_', ' ')}: median error {percent(median)}"
                + (f", worst {signed_percent(worst)}." if worst is not None else ".")
            )
    if missed:
        lines.append(f"Targets missed: {'; '.join(missed)}.")
    return lines


def _keys(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fields in front of the compared ones: which cell it is."""
    names = list(cells[0]) if cells else []
    return [name for name in names if not name.endswith("_error_frac") and not any(side in name for side in _SIDES)]


def _charts(cells: Sequence[Mapping[str, Any]]) -> list[Chart]:
    charts = []
    for name in dict.fromkeys(name for cell in cells for name in cell):
        unit = next((unit for unit in UNITS if name.endswith(f"_measured{unit}")), None)
        if unit is not None:
            figure = name.removesuffix(f"_measured{unit}")
            other = f"{figure}_simulated{unit}"
            pairs = [cell for cell in cells if not is_missing(cell.get(name)) and not is_missing(cell.get(other))]
            if len(pairs) > 1 and f"{figure}_error_frac" in pairs[0]:
                charts.append(_diagonal(pairs, figure, name, other))
    return charts


def _diagonal(cells: Sequence[Mapping[str, Any]], figure: str, measured: str, simulated: str) -> Chart:
    factor, unit = scale_of(measured, [float(cell[name]) for cell in cells for name in (measured, simulated)])
    key = next((name for name in _keys(cells) if isinstance(cells[0][name], str)), None)
    label = {id(cell): str(cell.get(key)) if key else "cells" for cell in cells}
    looks = looks_of(label.values())
    traces: list[Trace] = []
    for name in dict.fromkeys(label.values()):
        own = [cell for cell in cells if label[id(cell)] == name]
        x, y = ([float(cell[side]) / factor for cell in own] for side in (measured, simulated))
        texts = [
            f"{name}: measured {a:.4g}, simulated {b:.4g} {unit} ({signed_percent(cell[f'{figure}_error_frac'])})"
            for a, b, cell in zip(x, y, own, strict=True)
        ]
        traces.append(dots(name, x, y, looks[name], texts=texts))
    values = [value for trace in traces for side in "xy" for value in trace[side]]
    ends = [min(values), max(values)]
    equal = dots("equal", ends, ends, looks[next(iter(looks))])
    equal |= {"mode": "lines", "line": {"color": "#555555", "dash": "dash", "width": 1.5}, "hoverinfo": "skip"}
    layout = {
        "xaxis": value_axis(with_unit("measured", unit), ends),
        "yaxis": value_axis(with_unit("simulated", unit), ends),
        "hovermode": "closest",
    }
    title = f"{figure.replace('_', ' ')}: simulated against measured"
    return Chart(title=title, views=[View(name="all", traces=[*traces, equal], layout=layout)], height_pixels=440)
