"""The commands that run the real model and judge what it did: measure, compare, crosscheck, experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from kvsim.cli.terminal import bar, command_text, need_torch

if TYPE_CHECKING:
    from kvsim.experiments import Compared
    from kvsim.report.results import RunResult
    from kvsim.scenario.decode import Scenario
    from kvsim.scenario.file import AnyScenario

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field; a list sweeps it. Repeatable."),
]
ScenarioName = Annotated[str, typer.Argument(help="A scenario file, or the name of a shipped one.")]
Folder = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for results, instead of the scenario's.")
]


def add_commands(app: typer.Typer) -> None:
    """Give `app` the commands of this file."""
    app.command()(measure)
    app.command()(compare)
    app.command()(crosscheck)
    app.command()(experiment)


def measure(
    scenario: ScenarioName,
    overrides: Overrides = None,
    output: Folder = None,
    longest: Annotated[
        bool, typer.Option("--max-context", help="Find each policy's longest context before memory runs out instead.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of the table.")] = False,
) -> None:
    """Run a scenario for real; keep rows, summary and the recorded traces in a folder."""
    need_torch("measure")
    name, path, experiment = _load(scenario, overrides)
    if longest:
        _tell_max_contexts(name, path, experiment, output, as_json=as_json)
        return
    from kvsim.experiments import simulated_kind
    from kvsim.report.results import summary_json

    result, folder = _measure(name, path, experiment, output)
    if as_json:
        typer.echo(summary_json(result.summary), nl=False)
    else:
        typer.echo(f"{simulated_kind(name).show(result.summary)}\n\nmeasured: {folder}")


def compare(
    simulated: Annotated[Path, typer.Argument(help="The folder that `kvsim run` wrote.")],
    measured: Annotated[Path, typer.Argument(help="The folder that `kvsim measure` wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for cells as CSV and a picture.")
    ] = None,
    outside: Annotated[
        bool, typer.Option("--out-of-sample", help="Simulated on other accesses: counts have an error, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Put a simulated result beside a measured one: counts, then times, with the error of every cell."""
    from kvsim.experiments import compare_out_of_sample, compare_results
    from kvsim.report.results import load_result

    compare_both = compare_out_of_sample if outside else compare_results
    _tell([compare_both(load_result(simulated), load_result(measured))], [output], as_json=as_json)


def crosscheck(
    scenario: ScenarioName,
    overrides: Overrides = None,
    output: Folder = None,
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Calibrate where the profile is stale, measure, simulate the measured accesses, and compare."""
    need_torch("crosscheck")
    name, path, experiment = _load(scenario, overrides)
    from kvsim.experiments import DECODE, check_accesses, compare_out_of_sample, compare_results
    from kvsim.experiments.decode.cells import refuse_peers
    from kvsim.report.results import load_result

    if name == DECODE:
        refuse_peers(cast("Scenario", experiment))
    folder = output or Path(experiment.output.folder)
    if trace_from is not None:
        check_accesses(name, experiment, trace_from)  # before anything takes minutes
    if measured is None:
        if name == DECODE:
            profile = _fresh_profile(cast("Scenario", experiment), path, folder, recalibrate)
            if profile is not None:
                name, path, experiment = _load(scenario, [*(overrides or ()), f'profile.path="{profile}"'])
        _, measured = _measure(name, path, experiment, output)
    real = load_result(measured)
    result, simulated = _simulate(name, path, experiment, measured, folder)
    found, folders = [compare_results(result, real)], [simulated]
    if trace_from is not None:
        outside, simulated_outside = _simulate(name, path, experiment, trace_from, folder)
        found.append(compare_out_of_sample(outside, real, found[0].contents))
        folders.append(simulated_outside)
    _tell(found, folders, as_json=as_json)
    if not as_json:
        typer.echo(f"\nmeasured:  {measured}")
        for written in folders:
            typer.echo(f"simulated: {written}")
    if strict and found[0].missed:
        typer.echo(f"targets missed: {'; '.join(found[0].missed)}", err=True)
        raise typer.Exit(1)


def experiment(
    result: Annotated[Path, typer.Argument(help="The folder that `kvsim measure` or `kvsim run` wrote.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for JSON and picture, instead of the result's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print experiment_summary.json instead.")] = False,
) -> None:
    """Compare paging with keeping everything, in the tables of a prefetching experiment."""
    from kvsim.experiments.decode.report.experiment import experiment_of, experiment_summary
    from kvsim.experiments.decode.report.experiment_tables import experiment_figure, experiment_text
    from kvsim.report.results import load_result, summary_json, write_picture
    from kvsim.report.style import png

    found = experiment_of(load_result(result))
    contents = summary_json(experiment_summary(found))
    folder = output or result
    written = write_picture(contents.encode(), folder, "experiment_summary.json")
    picture = write_picture(png(experiment_figure(found)), folder, "kv_cache_comparison.png")
    if as_json:
        typer.echo(contents, nl=False)
    else:
        typer.echo(f"{experiment_text(found)}\n\nsummary: {written}\npicture: {picture}")


def _tell_max_contexts(name: str, path: Path, experiment: AnyScenario, output: Path | None, *, as_json: bool) -> None:
    """Search the longest contexts, print them, and keep them where a folder is named."""
    from kvsim.errors import ScenarioError
    from kvsim.experiments import DECODE
    from kvsim.experiments.decode.max_context import max_contexts, result_of
    from kvsim.experiments.decode.report.max_context import max_context_text
    from kvsim.report.results import summary_json, write_result

    if name != DECODE:
        raise ScenarioError(f"{path}: --max-context is for scenarios of kind {DECODE!r}; this one is of kind {name!r}")
    scenario = cast("Scenario", experiment)
    with bar(f"longest contexts of {scenario.name}") as shown:
        records = max_contexts(scenario, beside=path.parent, progress=shown.advance)
    result = result_of(scenario, records, text=path.read_text(encoding="utf-8"), command=command_text())
    typer.echo(summary_json(result.summary) if as_json else max_context_text(records), nl=not as_json)
    if output is not None:
        table = {"table.txt": (max_context_text(records) + "\n").encode()}
        typer.echo(f"result: {write_result(result, output, table)}", err=as_json)


def _load(scenario: str, overrides: list[str] | None) -> tuple[str, Path, AnyScenario]:
    from kvsim.experiments import load_scenario
    from kvsim.scenario.shipped import find_scenario

    path = find_scenario(scenario)
    name, experiment = load_scenario(path, overrides or ())
    return name, path, experiment


def _measure(name: str, path: Path, experiment: AnyScenario, output: Path | None) -> tuple[RunResult, Path]:
    from kvsim.experiments import Job, measured_kind
    from kvsim.report.results import write_result

    with bar(f"measuring {experiment.name}") as shown:
        job = Job(
            text=path.read_text(encoding="utf-8"),
            command=command_text(),
            beside=path.parent,
            progress=shown.advance,
        )
        result, files = measured_kind(name).measure(experiment, job)
    return result, write_result(result, output or Path(experiment.output.folder), files)


def _fresh_profile(experiment: Scenario, path: Path, folder: Path, recalibrate: bool | None) -> Path | None:
    """Return the profile to use in place of the scenario's own; None where that one is to be used."""
    from kvsim.experiments.cost_tables import COST_TABLES
    from kvsim.experiments.decode.fresh_profile import fresh_profile

    with bar("loading") as shown:
        return fresh_profile(
            experiment,
            folder,
            recalibrate=recalibrate,
            say=lambda line: typer.echo(line, err=True),
            progress=shown.stage,
            beside=path.parent,
            command=command_text(),
            cost_tables=COST_TABLES,
        )


def _simulate(name: str, path: Path, experiment: AnyScenario, accesses: Path, folder: Path) -> tuple[RunResult, Path]:
    """Simulate on the accesses in a place; return the result and where it was written."""
    from kvsim.experiments import Job, simulated_kind
    from kvsim.report.results import write_result

    with bar(f"simulating {experiment.name}") as shown:
        job = Job(
            text=path.read_text(encoding="utf-8"),
            command=command_text(),
            beside=path.parent,
            progress=shown.advance,
            recorded=accesses,
        )
        result = simulated_kind(name).simulate(experiment, job)
    return result, write_result(result, folder)


def _tell(found: Sequence[Compared], folders: Sequence[Path | None], *, as_json: bool) -> None:
    """Print comparisons, or what programs read of them in one object, and write the files of each into its folder."""
    from kvsim.report.results import summary_json, write_picture

    contents: dict[str, Any] = {}
    for compared, folder in zip(found, folders, strict=True):
        contents |= compared.contents
        if folder is not None:
            for file, content in compared.files.items():
                write_picture(content, folder, file)
    typer.echo(summary_json(contents) if as_json else "\n\n".join(compared.text for compared in found), nl=not as_json)
