"""The commands that run the real model and judge what it did: measure, compare, crosscheck, experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvsim.cli.terminal import Bar, bar, command_text, need_torch

if TYPE_CHECKING:
    from kvsim.experiments.registry import LoadedScenario
    from kvsim.experiments.types import Compared, Job
    from kvsim.report.results import RunResult

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
    loaded = _load(scenario, overrides)
    if longest:
        _find_max_contexts(loaded, output, as_json=as_json)
        return
    from kvsim.experiments.registry import load_experiment
    from kvsim.report.results import summary_json

    result, folder = _measure(loaded, output)
    if as_json:
        typer.echo(summary_json(result.summary), nl=False)
    else:
        typer.echo(f"{load_experiment(loaded.experiment).show(result.summary)}\n\nmeasured: {folder}")


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
    from kvsim.experiments.registry import compare_out_of_sample, compare_results
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
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Calibrate where the profile is stale, measure, simulate the measured accesses, and compare."""
    need_torch("crosscheck")
    loaded = _load(scenario, overrides)
    from kvsim.experiments.registry import check_accesses, compare_out_of_sample, compare_results, load_experiment
    from kvsim.report.results import load_result

    check_simulated = load_experiment(loaded.experiment).check_simulated
    if check_simulated is not None:
        check_simulated(loaded.scenario)
    folder = output or Path(loaded.scenario.output.folder)
    if trace_from is not None:
        check_accesses(loaded.experiment, loaded.scenario, trace_from)  # before anything takes minutes
    if measured is None:
        profile = _fresh_profile(loaded, folder, recalibrate)
        if profile is not None:
            loaded = _load(scenario, [*(overrides or ()), f'profile.path="{profile}"'])
        _, measured = _measure(loaded, output)
    real = load_result(measured)
    result, simulated = _simulate(loaded, measured, folder)
    compared, folders = [compare_results(result, real)], [simulated]
    if trace_from is not None:
        outside, simulated_outside = _simulate(loaded, trace_from, folder)
        compared.append(compare_out_of_sample(outside, real, compared[0].contents))
        folders.append(simulated_outside)
    _tell(compared, folders, as_json=as_json)
    if not as_json:
        typer.echo(f"\nmeasured:  {measured}")
        for written in folders:
            typer.echo(f"simulated: {written}")


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


def _find_max_contexts(loaded: LoadedScenario, output: Path | None, *, as_json: bool) -> None:
    """Search the longest contexts, print them, and keep them where a folder is named."""
    from kvsim.errors import ScenarioError
    from kvsim.experiments.registry import load_measurement
    from kvsim.report.results import summary_json, write_result

    max_contexts = load_measurement(loaded.experiment).max_contexts
    if max_contexts is None:
        raise ScenarioError(
            f"{loaded.source.path}: --max-context is for scenarios of kind 'decode'; this one is of kind "
            f"{loaded.experiment!r}"
        )
    with bar(f"longest contexts of {loaded.scenario.name}") as shown:
        result, files = max_contexts(loaded.scenario, _job(loaded, shown))
    typer.echo(summary_json(result.summary) if as_json else files["table.txt"].decode(), nl=False)
    if output is not None:
        typer.echo(f"result: {write_result(result, output, files)}", err=as_json)


def _load(scenario: str, overrides: list[str] | None) -> LoadedScenario:
    from kvsim.experiments.registry import load_scenario
    from kvsim.scenario.shipped import find_scenario

    return load_scenario(find_scenario(scenario), overrides or ())


def _job(loaded: LoadedScenario, shown: Bar, recorded: Path | None = None) -> Job:
    from kvsim.experiments.types import Job

    return Job(
        text=loaded.source.text,
        command=command_text(),
        base_dir=loaded.base_dir,
        progress=shown.advance,
        recorded=recorded,
    )


def _measure(loaded: LoadedScenario, output: Path | None) -> tuple[RunResult, Path]:
    from kvsim.experiments.registry import load_measurement
    from kvsim.report.results import write_result

    with bar(f"measuring {loaded.scenario.name}") as shown:
        result, files = load_measurement(loaded.experiment).measure(loaded.scenario, _job(loaded, shown))
    return result, write_result(result, output or Path(loaded.scenario.output.folder), files)


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
            say=lambda line: typer.echo(line, err=True),
            progress=shown.stage,
            cost_tables=all_cost_tables(),
        )


def _simulate(loaded: LoadedScenario, accesses: Path, folder: Path) -> tuple[RunResult, Path]:
    """Simulate on the accesses in a place; return the result and where it was written."""
    from kvsim.experiments.registry import load_experiment
    from kvsim.report.results import write_result

    with bar(f"simulating {loaded.scenario.name}") as shown:
        result = load_experiment(loaded.experiment).simulate(loaded.scenario, _job(loaded, shown, accesses))
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
