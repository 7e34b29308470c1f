"""Who does what when in some steps of a cell, as a figure: a lane each for host, compute and the two copy engines."""

from __future__ import annotations

from collections.abc import Mapping

from kvsim.report.html.charts import Chart, Trace, View, axis, escaped, numbers
from kvsim.report.style import PALETTE
from kvsim.report.timeline import LANES, TimedRun, chosen

_COLORS: Mapping[str, str] = {
    "attention_input": "#7FB2D9",
    "select": "#5B2A6E",
    "attention": PALETTE[0],
    "attention_output": "#C4DCEE",
    "embed": "#BBBBBB",
    "head": "#949494",
    "host": "#ECE133",
    "wait": "#ECE133",
    "stall": PALETTE[7],
    "demand": PALETTE[7],
    "prefetch": PALETTE[2],
    "write-back": PALETTE[4],
}
MAX_SPANS = 12_000
"""More would make the page slow."""


def timeline_chart(run: TimedRun, steps: range, title: str) -> Chart:
    """Return the spans of `steps`, from the first one's begin on; of very many, the first `MAX_SPANS`.

    Raises
    ------
    KvsimError
        If the run has not all of `steps`.
    """
    spans = sorted(chosen(run, steps), key=lambda span: span.start_s)[:MAX_SPANS]
    origin_s = min(span.start_s for span in spans if span.lane == "compute")
    traces: list[Trace] = []
    for place, name in enumerate(dict.fromkeys(span.name for span in spans)):
        own = [span for span in spans if span.name == name]
        texts = [
            f"{name}, step {span.step}{'' if span.layer is None else f', layer {span.layer}'}: "
            f"{1e6 * (span.end_s - span.start_s):.4g} µs{'' if span.num_pages is None else f', {span.num_pages} pages'}"
            for span in own
        ]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": escaped(name),
                "meta": {"series": name},
                "y": [span.lane for span in own],
                "base": numbers(1e3 * (span.start_s - origin_s) for span in own),
                "x": numbers(1e3 * (span.end_s - span.start_s) for span in own),
                "marker": {"color": _COLORS.get(name, PALETTE[place % len(PALETTE)]), "line": {"width": 0}},
                "hovertext": [escaped(text) for text in texts],
                "hoverinfo": "text",
            }
        )
    layout = {
        "barmode": "overlay",
        "bargap": 0.25,
        "hovermode": "closest",
        "xaxis": axis("ms"),
        "yaxis": {"type": "category", "categoryorder": "array", "categoryarray": list(reversed(LANES))},
    }
    view = View(name=run.name, traces=traces, layout=layout)
    note = "Each bar is a segment of work or a copy. Drag to look closer, double-click to see all."
    return Chart(title=title, views=[view], note=note, height_pixels=330)
