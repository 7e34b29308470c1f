"""The commands that run the real model and judge what it did: measure, compare, crosscheck, experiment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvsim.console import bar, command_text, need_torch

if TYPE_CHECKING:
    from kvsim.measure import Measured
    from kvsim.report.compare import Comparison
    from kvsim.scenario import Scenario

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
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of the table.")] = False,
) -> None:
    """Run a scenario for real; keep rows, summary and the recorded traces in a folder."""
    need_torch("measure")
    path, experiment = _load(scenario, overrides)
    from kvsim.report.tables import text_table
    from kvsim.results import summary_json

    measured, folder = _measure(path, experiment, output)
    summary = measured.result.summary
    typer.echo(summary_json(summary) if as_json else text_table(summary), nl=not as_json)
    if not as_json:
        typer.echo(f"\nmeasured: {folder}")


def compare(
    simulated: Annotated[Path, typer.Argument(help="The folder that `kvsim run` wrote.")],
    measured: Annotated[Path, typer.Argument(help="The folder that `kvsim measure` wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for cells as CSV and a picture.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Put a simulated result beside a measured one: counts, then times, with the error of every cell."""
    from kvsim.report.compare import compare as compare_results
    from kvsim.results import load_result

    found = compare_results(load_result(simulated), load_result(measured))
    _tell(found, output, as_json=as_json)


def crosscheck(
    scenario: ScenarioName,
    overrides: Overrides = None,
    output: Folder = None,
    measured: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A measured result to use instead of measuring anew.")
    ] = None,
    recalibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Calibrate this machine first, into the output folder.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Calibrate, measure, simulate the measured accesses, and compare."""
    need_torch("crosscheck")
    path, experiment = _load(scenario, overrides)
    from kvsim.crosscheck import simulate_measured
    from kvsim.results import load_result, write_result

    folder = output or Path(experiment.output.folder)
    if measured is not None:
        found, real = measured, load_result(measured)
    else:
        if recalibrate:
            profile = _calibrate(experiment, path, folder)
            path, experiment = _load(scenario, [*(overrides or ()), f'profile.path="{profile}"'])
        done, found = _measure(path, experiment, output)
        real = done.result
    with bar(f"simulating {experiment.name}") as shown:
        check = simulate_measured(
            experiment, real, found, beside=path.parent, command=command_text(), progress=shown.advance
        )
    simulated = write_result(check.simulated, folder)
    _tell(check.comparison, simulated, as_json=as_json)
    if not as_json:
        typer.echo(f"\nmeasured:  {found}\nsimulated: {simulated}")


def experiment(
    result: Annotated[Path, typer.Argument(help="The folder that `kvsim measure` or `kvsim run` wrote.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder for JSON and picture, instead of the result's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print experiment_summary.json instead.")] = False,
) -> None:
    """Compare paging with keeping everything, in the tables of a prefetching experiment."""
    from kvsim.report.experiment import experiment_of, experiment_summary
    from kvsim.report.experiment_tables import experiment_figure, experiment_text
    from kvsim.report.style import png
    from kvsim.results import load_result, summary_json, write_picture

    found = experiment_of(load_result(result))
    contents = summary_json(experiment_summary(found))
    folder = output or result
    written = write_picture(contents.encode(), folder, "experiment_summary.json")
    picture = write_picture(png(experiment_figure(found)), folder, "kv_cache_comparison.png")
    if as_json:
        typer.echo(contents, nl=False)
    else:
        typer.echo(f"{experiment_text(found)}\n\nsummary: {written}\npicture: {picture}")


def _load(name: str, overrides: list[str] | None) -> tuple[Path, Scenario]:
    from kvsim.assets import find_scenario
    from kvsim.scenario import load_scenario

    path = find_scenario(name)
    return path, load_scenario(path, overrides or ())


def _measure(path: Path, experiment: Scenario, output: Path | None) -> tuple[Measured, Path]:
    from kvsim.measure import measure as measure_scenario
    from kvsim.results import write_result

    with bar(f"measuring {experiment.name}") as shown:
        measured = measure_scenario(
            experiment,
            text=path.read_text(encoding="utf-8"),
            command=command_text(),
            beside=path.parent,
            progress=shown.advance,
        )
    return measured, write_result(measured.result, output or Path(experiment.output.folder), measured.traces)


def _calibrate(experiment: Scenario, path: Path, folder: Path) -> Path:
    """Calibrate the scenario's model on this machine, and return the profile."""
    from kvsim.assets import find_profile
    from kvsim.calibrate import DEFAULT_BANDWIDTH_BYTES_PER_S, calibrate
    from kvsim.cells import resolve_shape
    from kvsim.errors import ScenarioError
    from kvsim.hardware import load_profile, write_profile
    from kvsim.measure import near

    if experiment.model.path is None:
        raise ScenarioError(f"{experiment.name}: no model.path; `make model` writes one to .cache/models")
    named = load_profile(find_profile(experiment.profile.path, path.parent))
    with bar("loading") as shown:
        profile = calibrate(
            near(experiment.model.path, path.parent),
            dtype=resolve_shape(experiment).dtype,
            device=named.device,
            name=f"{experiment.name}-{named.device}",
            bandwidth_bytes_per_s=named.link.stated_bandwidth_bytes_per_s or DEFAULT_BANDWIDTH_BYTES_PER_S,
            command=command_text(),
            progress=shown.stage,
        )
    file = (folder / f"profile-{experiment.name}.toml").resolve()
    write_profile(profile, file)
    return file


def _tell(found: Comparison, folder: Path | None, *, as_json: bool) -> None:
    from kvsim.crosscheck import verdict_lines
    from kvsim.report.compare_tables import compare_csv, compare_figure, compare_text
    from kvsim.report.style import png
    from kvsim.results import summary_json, write_picture

    contents: dict[str, Any] = found.figures | {"cells": found.cells}
    if found.divergence is not None:
        contents |= {"divergence": str(found.divergence)}
    if folder is not None:
        write_picture(png(compare_figure(found)), folder, "compare.png")
        write_picture(compare_csv(found).encode(), folder, "compare.csv")
        write_picture(summary_json(contents).encode(), folder, "compare.json")
    if as_json:
        typer.echo(summary_json(contents), nl=False)
        return
    typer.echo(compare_text(found))
    if found.divergence is not None:
        typer.echo(f"first divergence: {found.divergence}")
    typer.echo(os.linesep.join(verdict_lines(found.figures)))
