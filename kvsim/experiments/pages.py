"""A result as a page to send on: what its experiment adds, with provenance and limitations, as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping

from kvsim.experiments.registry import DECODE, EXPERIMENTS, load_experiment
from kvsim.report.html.page import Page, page_html
from kvsim.report.html.parts import Parts, own_parts
from kvsim.report.html.provenance import header_facts, limitations_of, provenance_of
from kvsim.report.html.tables import Table, own_columns
from kvsim.report.results import RunResult

REPORT = "report.html"
"""What the page is called in a result's folder."""


def report_file(result: RunResult) -> dict[str, bytes]:
    """Return the page of a result by its file name, to be written with the result."""
    return {REPORT: page_html(page_of(result))}


def page_of(result: RunResult) -> Page:
    """Return the page of one result."""
    parts, summary = parts_of(result), result.summary
    cells = summary["cells"]
    every = Table(title="All figures of every cell", rows=cells, columns=own_columns(cells, parts.keys), is_folded=True)
    main = Table(title="Cells", rows=cells, columns=parts.columns, legend=parts.legend)
    return Page(
        title=str(summary["scenario"]),
        kind=f"kvsim report: {kind_of(result)}",
        question=str(summary.get("question") or ""),
        facts=header_facts(summary, result.manifest),
        verdict=list(map(str, summary.get("verdict", ()))),
        tables=[main, *parts.tables, every],
        charts=parts.charts,
        limitations=[*limitations_of(summary), *parts.limitations],
        provenance=[provenance_of(summary, result.manifest)],
    )


def parts_of(result: RunResult) -> Parts:
    """Return what the experiment of a result shows of it."""
    kind = kind_of(result)
    own = load_experiment(kind).parts if kind in EXPERIMENTS else None
    return (own or own_parts)(result)


def kind_of(result: RunResult) -> str:
    """Return the name of the experiment that made a result, known or not."""
    summary: Mapping[str, object] = result.summary
    return str(summary.get("kind") or DECODE)
