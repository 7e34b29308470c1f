"""The commands that run the real model and judge what it did: measure, compare, crosscheck."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvsim.cli.choices import (
    FiguresAsJson,
    Overrides,
    ResultFolder,
    ScenarioName,
    SummaryAsJson,
    load_chosen,
    output_option,
)
from kvsim.cli.outputs import output_folder, write_or_print
from kvsim.cli.report import load_each
from kvsim.cli.terminal import Bar, bar, command_text, need_torch, printable

if TYPE_CHECKING:
    from kvsim.experiments.registry import LoadedScenario
    from kvsim.experiments.types import Job
    from kvsim.report.comparison import Compared
    from kvsim.report.results import RunResult


def measure(
    scenario: ScenarioName,
    overrides: Overrides = None,
    output: ResultFolder = None,
    longest: Annotated[
        bool, typer.Option("--max-context", help="Find each policy's longest context before memory runs out instead.")
    ] = False,
    as_json: SummaryAsJson = False,
) -> None:
    """Run a scenario for real; keep rows, summary and the recorded traces in a folder."""
    need_torch("measure")
    loaded = load_chosen(scenario, overrides)
    if longest:
        _find_max_contexts(loaded, output, as_json=as_json)
        return
    from kvsim.experiments.registry import load_experiment
    from kvsim.report.results import summary_json, write_result

    result, files = _measure(loaded, output)
    files |= _page(loaded, result)
    text = summary_json(result.summary) if as_json else load_experiment(loaded.experiment).show(result.summary)
    written = write_or_print(lambda: write_result(result, output or Path(loaded.scenario.output.folder), files), text)
    typer.echo(text if as_json else f"{text}\n\nmeasured: {written}", nl=not as_json)


def compare(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT RESULT...", help="A simulated and a measured one, or several to put side by side."
        ),
    ],
    output: Annotated[Path | None, output_option("DIR", "Folder for a page, the cells as CSV, and a picture.")] = None,
    outside: Annotated[
        bool, typer.Option("--out-of-sample", help="Simulated on other accesses: counts have an error, too.")
    ] = False,
    as_json: FiguresAsJson = False,
) -> None:
    """Put results side by side; of a simulated and a measured one, counts and times with the error of every cell."""
    from kvsim.errors import ResultError
    from kvsim.experiments.registry import compare_out_of_sample, compare_results

    if len(results) < 2:
        raise ResultError("compare: name two results or more")
    if output is not None:
        output_folder(output)
    loaded = load_each(results)
    sides = [bool(result.summary.get("is_measured")) for result in loaded.values()]
    if outside or (len(sides) == 2 and sides[0] != sides[1]):
        if len(sides) != 2:
            raise ResultError("compare: --out-of-sample is for a simulated and a measured result")
        simulated, measured = loaded.values()
        compared = (compare_out_of_sample if outside else compare_results)(simulated, measured)
        _print_and_write([_with_page(simulated, measured, compared) if output else compared], [output], as_json=as_json)
        return
    _side_by_side(loaded, output, as_json=as_json)


def _side_by_side(loaded: dict[Path, RunResult], output: Path | None, *, as_json: bool) -> None:
    """Print several results side by side, and write page and table into a folder."""
    from kvsim.experiments.side_by_side import side_by_side, side_by_side_page
    from kvsim.report.frames import table_files
    from kvsim.report.html.page import page_html
    from kvsim.report.reading import reading
    from kvsim.report.results import summary_json, write_picture

    with reading(", ".join(map(str, loaded))):
        sides = side_by_side(loaded)
        tables = {} if output is None else table_files({"compare": sides.rows}, {})
        page = {} if output is None else {"compare.html": page_html(side_by_side_page(sides))}
    folders = {label: str(folder) for label, folder in sides.folders.items()}
    contents = summary_json({"results": folders, "keys": sides.keys, "cells": sides.rows})
    typer.echo(contents if as_json else sides.text, nl=not as_json)
    if output is None:
        return
    for name, content in {**page, "compare.json": contents.encode(), **tables}.items():
        written = write_picture(content, output, name)
        if not as_json:
            typer.echo(f"{written}: written")


def crosscheck(
    scenario: ScenarioName,
    overrides: Overrides = None,
    output: ResultFolder = None,
    measured: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A measured result to use instead of measuring anew.")
    ] = None,
    trace_from: Annotated[
        Path | None,
        typer.Option(metavar="PLACE", help="Out of sample too: another measured result, captures, or one capture."),
    ] = None,
    recalibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Calibrate this machine first, into the output folder; only where the profile is stale if absent.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where a target is missed.")] = False,
    as_json: FiguresAsJson = False,
) -> None:
    """Calibrate where the profile is stale, measure, simulate the measured accesses, and compare."""
    need_torch("crosscheck")
    loaded = load_chosen(scenario, overrides)
    from kvsim.experiments.registry import check_accesses, compare_out_of_sample, compare_results, load_experiment
    from kvsim.report.results import load_result, write_result

    experiment = load_experiment(loaded.experiment)
    if experiment.check_simulated is not None:
        experiment.check_simulated(loaded.scenario)
    folder = output_folder(output or Path(loaded.scenario.output.folder), loaded.scenario.name)
    if trace_from is not None:
        check_accesses(loaded.experiment, loaded.scenario, trace_from)  # before anything takes minutes
    if measured is None:
        profile = _fresh_profile(loaded, folder, recalibrate)
        if profile is not None:
            loaded = load_chosen(scenario, [*(overrides or ()), f'profile.path="{profile}"'])
        result, files = _measure(loaded, output)
        files |= _page(loaded, result)
        measured = write_or_print(lambda: write_result(result, folder, files), experiment.show(result.summary))
    real = load_result(measured)
    result, simulated = _simulate(loaded, measured, folder)
    compared, folders = [_with_page(result, real, compare_results(result, real))], [simulated]
    if trace_from is not None:
        outside, simulated_outside = _simulate(loaded, trace_from, folder)
        compared.append(_with_page(outside, real, compare_out_of_sample(outside, real, compared[0].contents)))
        folders.append(simulated_outside)
    _print_and_write(compared, folders, as_json=as_json)
    if not as_json:
        typer.echo(f"\nmeasured:  {measured}")
        for written in folders:
            typer.echo(f"simulated: {written}")
    if strict and compared[0].missed:
        typer.echo(f"targets missed: {'; '.join(compared[0].missed)}", err=True)
        raise typer.Exit(1)


def _find_max_contexts(loaded: LoadedScenario, output: Path | None, *, as_json: bool) -> None:
    """Search the longest contexts, print them, and keep them where a folder is named."""
    from kvsim.errors import ScenarioError
    from kvsim.experiments.registry import load_measurement
    from kvsim.report.results import summary_json, write_result

    max_contexts = load_measurement(loaded.experiment).max_contexts
    if max_contexts is None:
        raise ScenarioError(
            f"{loaded.where}: --max-context is for scenarios of kind 'decode'; this one is of kind "
            f"{loaded.experiment!r}"
        )
    if output is not None:
        output_folder(output, loaded.scenario.name)
    with bar(f"longest contexts of {loaded.scenario.name}") as shown:
        result, files = max_contexts(loaded.scenario, _job(loaded, shown))
    typer.echo(summary_json(result.summary) if as_json else files["table.txt"].decode(), nl=False)
    if output is not None:
        typer.echo(f"result: {write_result(result, output, files)}", err=as_json)


def _job(loaded: LoadedScenario, shown: Bar, recorded: Path | None = None) -> Job:
    return loaded.job(command=command_text(), progress=shown.advance, recorded=recorded)


def _measure(loaded: LoadedScenario, output: Path | None) -> tuple[RunResult, dict[str, bytes]]:
    """Return the measured result and the files recorded on the way, to be written to `output` or the scenario's."""
    from kvsim.experiments.registry import load_measurement

    output_folder(output or Path(loaded.scenario.output.folder), loaded.scenario.name)
    with bar(f"measuring {loaded.scenario.name}") as shown:
        return load_measurement(loaded.experiment).measure(loaded.scenario, _job(loaded, shown))


def _fresh_profile(loaded: LoadedScenario, folder: Path, recalibrate: bool | None) -> Path | None:
    """Return the profile to use in place of the scenario's own; None where that one is to be used."""
    from kvsim.experiments.registry import all_cost_tables, load_measurement

    fresh_profile = load_measurement(loaded.experiment).fresh_profile
    if fresh_profile is None:
        return None
    with bar("loading") as shown:
        return fresh_profile(
            loaded.scenario,
            _job(loaded, shown),
            folder,
            recalibrate=recalibrate,
            say=lambda line: typer.echo(printable(line), err=True),
            progress=shown.stage,
            cost_tables=all_cost_tables(),
        )


def _simulate(loaded: LoadedScenario, accesses: Path, folder: Path) -> tuple[RunResult, Path]:
    """Simulate on the accesses in a place; return the result and where it was written."""
    from kvsim.experiments.registry import load_experiment
    from kvsim.report.results import write_result

    experiment = load_experiment(loaded.experiment)
    with bar(f"simulating {loaded.scenario.name}") as shown:
        result = experiment.simulate(loaded.scenario, _job(loaded, shown, accesses))
    page = _page(loaded, result)
    return result, write_or_print(lambda: write_result(result, folder, page), experiment.show(result.summary))


def _page(loaded: LoadedScenario, result: RunResult) -> dict[str, bytes]:
    """Return the report of a result by its file name, unless the scenario wants no figures."""
    from kvsim.experiments.pages import report_file

    return report_file(result) if loaded.scenario.output.figures else {}


def _with_page(simulated: RunResult, measured: RunResult, compared: Compared) -> Compared:
    from kvsim.experiments.comparison_page import with_page

    return with_page(simulated, measured, compared)


def _print_and_write(comparisons: Sequence[Compared], folders: Sequence[Path | None], *, as_json: bool) -> None:
    """Print comparisons, or what programs read of them in one object, and write the files of each into its folder."""
    from kvsim.report.results import summary_json, write_picture

    contents: dict[str, Any] = {}
    for compared in comparisons:
        contents |= compared.contents
    text = summary_json(contents) if as_json else "\n\n".join(compared.text for compared in comparisons)

    def write() -> None:
        for compared, folder in zip(comparisons, folders, strict=True):
            if folder is not None:
                for file, content in compared.files.items():
                    write_picture(content, folder, file)

    write_or_print(write, text)
    typer.echo(text, nl=not as_json)
