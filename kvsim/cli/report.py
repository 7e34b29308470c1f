"""The command that makes a page to send on: `kvsim report`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvsim.cli.choices import output_option
from kvsim.cli.outputs import output_file
from kvsim.cli.terminal import bar, command_text
from kvsim.cli.traces import PAGE_TOKENS

if TYPE_CHECKING:
    from kvsim.report.html.charts import Chart
    from kvsim.report.html.page import Page
    from kvsim.report.results import RunResult


def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT...", help="Result folders, of several one page; or a trace or profile file."),
    ],
    output: Annotated[
        Path | None, output_option("FILE", "The page to write; report.html in RESULT, FILE.html.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Every table beside the page, as CSV and as Parquet.")] = False,
    timeline: Annotated[
        int | None,
        typer.Option(metavar="CELL", min=0, help="Simulate a cell of decode again and draw two steps of it in detail."),
    ] = None,
) -> None:
    """Write a result, or several side by side, as one HTML file: verdict, tables, interactive figures, provenance."""
    from kvsim.errors import ResultError

    if len(results) == 1 and results[0].is_file():
        if csv or timeline is not None:
            raise ResultError(f"{results[0]}: a file; --csv and --timeline are for the folder of a result")
        _report_file(results[0], output)
        return
    if len(results) > 1 and output is None:
        raise ResultError("report: a page of several results needs a name: add -o FILE.html")
    if len(results) > 1 and timeline is not None:
        raise ResultError("report: --timeline is for one result")
    target = output or results[0] / "report.html"
    loaded = load_each(results)
    output_file(target, ".html")
    from kvsim.report.html.page import page_html
    from kvsim.report.reading import reading
    from kvsim.report.results import write_picture

    with reading(", ".join(map(str, results))):
        page, files = _page_and_tables(loaded, csv=csv)
        drawn = page_html(page)
    if timeline is not None:
        chart = _timeline(loaded[results[0]], timeline)
        drawn = page_html(replace(page, charts=[*page.charts, chart]))
    for name, content in {"": drawn, **files}.items():
        file = f"{target.stem}-{name}" if name else target.name
        typer.echo(f"{write_picture(content, target.parent, file)}: written")


def _report_file(path: Path, output: Path | None) -> None:
    """Write the page of a trace or of a profile, beside it where no other place is named."""
    from kvsim.report.html.page import page_html
    from kvsim.report.results import write_picture

    target = output_file(output or path.with_suffix(".html"), ".html")
    page = trace_page_of(path) if path.suffix == ".kvtrace" else profile_page_of(path)
    typer.echo(f"{write_picture(page_html(page), target.parent, target.name)}: written")


def trace_page_of(path: Path) -> Page:
    """Return the page of an access trace, as `kvsim trace info` writes it."""
    from kvsim.report.html.trace_page import trace_page
    from kvsim.traces.access.file import open_trace
    from kvsim.traces.access.statistics import measure_statistics

    trace = open_trace(path)
    statistics = measure_statistics(trace, PAGE_TOKENS)
    return trace_page(statistics, trace.header, path.stem, command=command_text(), path=str(path))


def profile_page_of(path: Path) -> Page:
    """Return the page of a profile, as `kvsim profile show` writes it.

    Raises
    ------
    ResultError
        If the file is neither a profile nor a trace.
    """
    from kvsim.errors import ResultError
    from kvsim.profile.profile import load_profile
    from kvsim.report.html.profile_page import profile_page

    if path.suffix != ".toml":
        raise ResultError(f"{path}: no result; name the folder of one, a trace (*.kvtrace) or a profile (*.toml)")
    return profile_page(load_profile(path), command=command_text(), path=str(path))


def _page_and_tables(loaded: Mapping[Path, RunResult], *, csv: bool) -> tuple[Page, Mapping[str, bytes]]:
    """Return the page of one result or of several, and the files of its tables by name where they are asked for."""
    from kvsim.experiments.pages import page_of
    from kvsim.experiments.side_by_side import side_by_side, side_by_side_page
    from kvsim.report.frames import table_files

    if len(loaded) > 1:
        sides = side_by_side(loaded)
        return side_by_side_page(sides), table_files({"side-by-side": sides.rows}, {}) if csv else {}
    (result,) = loaded.values()
    return page_of(result), table_files(_tables(result), result.rows) if csv else {}


def load_each(folders: Sequence[Path]) -> dict[Path, RunResult]:
    """Return results by their folders.

    Raises
    ------
    ResultError
        If one cannot be read, or is named twice.
    """
    from kvsim.errors import ResultError
    from kvsim.report.results import load_result

    loaded: dict[Path, RunResult] = {}
    for folder in folders:
        if folder.resolve() in map(Path.resolve, loaded):
            raise ResultError(f"{folder}: named twice; name each result once")
        loaded[folder] = load_result(folder)
    return loaded


def _tables(result: RunResult) -> dict[str, Sequence[Mapping[str, Any]]]:
    from kvsim.experiments.pages import parts_of

    others = {table.title.lower().replace(" ", "-"): table.rows for table in parts_of(result).tables}
    return {"cells": result.summary["cells"], **others}


def _timeline(result: RunResult, number: int) -> Chart:
    """Return the spans of the first two steps of a cell that count, simulated again from what the result records."""
    from kvsim.experiments.decode.simulate import simulate_timeline
    from kvsim.experiments.decode.sweep.whatif import check_unchanged, origin_of
    from kvsim.experiments.types import Job
    from kvsim.report.html.timeline import timeline_chart

    origin = origin_of(result, "report --timeline")
    scenario = origin.scenario()
    check_unchanged(result, origin, scenario, "report --timeline")
    with bar(f"timing cell {number}") as shown:
        job = Job(base_dir=origin.base_dir, command=command_text(), progress=shown.advance)
        run = simulate_timeline(scenario, number, job)
    first = scenario.run.warmup_steps
    policy = result.summary["cells"][number]["policy"]
    return timeline_chart(run, range(first, first + 2), f"Two steps of cell {number}, {policy}: who does what when")
