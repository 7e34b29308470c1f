"""The commands that run the real model and judge what it did: measure, compare, crosscheck, experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from kvsim.console import bar, command_text, need_torch

if TYPE_CHECKING:
    from kvsim.kinds import Compared
    from kvsim.results import RunResult
    from kvsim.scenario import Scenario
    from kvsim.scenario_file import AnyScenario

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
    name, path, experiment = _load(scenario, overrides)
    from kvsim.kinds import simulated_kind
    from kvsim.results import summary_json

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
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Put a simulated result beside a measured one: counts, then times, with the error of every cell."""
    from kvsim.kinds import compare_results
    from kvsim.results import load_result

    _tell(compare_results(load_result(simulated), load_result(measured)), output, as_json=as_json)


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
    name, path, experiment = _load(scenario, overrides)
    from kvsim.kinds import DECODE, Job, compare_results, simulated_kind
    from kvsim.results import load_result, write_result

    folder = output or Path(experiment.output.folder)
    if measured is not None:
        found, real = measured, load_result(measured)
    else:
        if recalibrate and name == DECODE:
            profile = _calibrate(cast("Scenario", experiment), path, folder)
            name, path, experiment = _load(scenario, [*(overrides or ()), f'profile.path="{profile}"'])
        real, found = _measure(name, path, experiment, output)
    with bar(f"simulating {experiment.name}") as shown:
        job = Job(
            text=path.read_text(encoding="utf-8"),
            command=command_text(),
            beside=path.parent,
            progress=shown.advance,
            recorded=found,
        )
        result = simulated_kind(name).simulate(experiment, job)
    simulated = write_result(result, folder)
    _tell(compare_results(result, real), simulated, as_json=as_json)
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


def _load(scenario: str, overrides: list[str] | None) -> tuple[str, Path, AnyScenario]:
    from kvsim.assets import find_scenario
    from kvsim.kinds import load_scenario

    path = find_scenario(scenario)
    name, experiment = load_scenario(path, overrides or ())
    return name, path, experiment


def _measure(name: str, path: Path, experiment: AnyScenario, output: Path | None) -> tuple[RunResult, Path]:
    from kvsim.kinds import Job, measured_kind
    from kvsim.results import write_result

    with bar(f"measuring {experiment.name}") as shown:
        job = Job(
            text=path.read_text(encoding="utf-8"),
            command=command_text(),
            beside=path.parent,
            progress=shown.advance,
        )
        result, files = measured_kind(name).measure(experiment, job)
    return result, write_result(result, output or Path(experiment.output.folder), files)


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


def _tell(found: Compared, folder: Path | None, *, as_json: bool) -> None:
    from kvsim.results import summary_json, write_picture

    if folder is not None:
        for file, content in found.files.items():
            write_picture(content, folder, file)
    typer.echo(summary_json(found.contents) if as_json else found.text, nl=not as_json)
