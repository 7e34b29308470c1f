"""The page of `kvsim trace info`: by layer, where the attention mass lies and how well it can be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.report.html.charts import Chart, View, across, axis, columns_of_bars, line, palette_looks
from kvsim.report.html.page import Page, Provenance
from kvsim.report.html.tables import Table, own_columns
from kvsim.report.trace_figures import Curves, best_pages, layer_recalls, shares_of, step_recalls
from kvsim.traces.access.header import TraceHeader
from kvsim.traces.access.statistics import RECALL_PAGES, RECENT_TOKENS, TraceStatistics


def trace_page(statistics: TraceStatistics, header: TraceHeader, name: str, *, command: str, path: str) -> Page:
    """Return the page of a trace."""
    by_layer = statistics.by_layer()
    rows = [
        {"layer": layer, **{field: float(values[layer]) for field, values in by_layer.items()}}
        for layer in range(statistics.num_layers)
    ]
    facts = {
        "Steps": f"{statistics.num_steps:,}",
        "Layers": f"{statistics.num_layers:,}",
        "Pages": f"{statistics.num_pages:,} of {statistics.page_tokens} tokens",
        "Model": header.model,
        "Text": header.text or "",
    }
    texts = {"Recipe": header.recipe or ""}
    about = {"Command": command, "File": path, "Recorded": str(header.recorded), "Numbers": header.compute_dtype}
    return Page(
        title=name,
        kind="kvsim report: access trace",
        question="How sparse is the attention, and how predictable?",
        facts=facts,
        verdict=_verdict(statistics),
        tables=[Table(title="Layers", rows=rows, columns=own_columns(rows, ("layer",)))],
        charts=_charts(statistics),
        limitations=[
            "One model reading one text. Values are means over steps and sequences.",
            f"Middle: neither the first page nor the last {RECENT_TOKENS} tokens.",
        ],
        provenance=[Provenance(title="", facts=about, texts=texts)],
    )


def _verdict(statistics: TraceStatistics) -> list[str]:
    means = statistics.averages()
    return [
        f"The best {RECALL_PAGES} of {statistics.num_pages:,} pages hold "
        f"{100 * means[f'top_{RECALL_PAGES}_share_frac']:.0f}% of the attention mass; "
        f"{means['pages_for_90_percent']:.0f} pages hold 90%.",
        f"Of a step's best {RECALL_PAGES} pages, {100 * means['step_recall_frac']:.0f}% were among those of the step "
        f"before; in the middle, where prediction is hard, {100 * means['middle_step_recall_frac']:.0f}%.",
    ]


def _charts(statistics: TraceStatistics) -> list[Chart]:
    steps, layers, chance = step_recalls(statistics), layer_recalls(statistics), statistics.chance_recall_frac
    return [
        _stacked("Where the attention mass lies", shares_of(statistics)),
        _lines("Mass in the best pages", best_pages(statistics), "mass, %"),
        _lines(f"A step's best {RECALL_PAGES} pages among those of the step before", steps, "share, %", chance),
        _lines(f"A layer's best {RECALL_PAGES} pages among those of others", layers, "share, %", chance),
    ]


def _stacked(title: str, curves: Curves) -> Chart:
    looks = palette_looks(curves)
    traces = [
        columns_of_bars(name, _layers(values), list(100 * values), looks[name].color) for name, values in curves.items()
    ]
    layout = {"barmode": "stack", "bargap": 0.15, **_axes("mass, %")}
    return Chart(title=title, views=[View(name="all layers", traces=traces, layout=layout)])


def _lines(title: str, curves: Curves, ordinate: str, chance_frac: float = float("nan")) -> Chart:
    known = {name: values for name, values in curves.items() if np.isfinite(values).any()}
    looks = palette_looks(known)
    traces = [
        trace
        for name, values in known.items()
        for trace in line(name, _layers(values), list(100 * values), looks[name])
    ]
    if np.isfinite(chance_frac) and known:
        traces.append(across(100 * chance_frac, "by chance", _layers(next(iter(known.values())))))
    return Chart(title=title, views=[View(name="all layers", traces=traces, layout=_axes(ordinate))])


def _layers(values: Sequence[Any] | NDArray[np.float64]) -> list[float]:
    return [float(layer) for layer in range(len(values))]


def _axes(ordinate: str) -> dict[str, Any]:
    return {"xaxis": axis("layer"), "yaxis": axis(ordinate) | {"range": [0, 102]}}
