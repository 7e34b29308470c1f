"""The commands that simulate many times for one question: `kvsim sweep` and `kvsim whatif`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvsim.cli.choices import (
    Figures,
    FiguresAsJson,
    Overrides,
    ScenarioName,
    json_option,
    load_chosen,
    output_option,
    set_option,
)
from kvsim.cli.outputs import output_folder, write_or_print
from kvsim.cli.terminal import INTERRUPTED, bar, command_text

if TYPE_CHECKING:
    from kvsim.experiments.decode.sweep.sweep import Sweep
    from kvsim.report.results import RunResult


def sweep(
    scenario: ScenarioName,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, output_option("DIR", "Folder for cells and results, instead of the scenario's.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes; one for each processor where absent.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Let the workers of this dask scheduler do the work.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Take finished cells from disk, or simulate all again.")
    ] = True,
    heat: Annotated[str | None, typer.Option(metavar="FIELD,FIELD", help="The two fields of the heat map.")] = None,
    figures: Figures = True,
    as_json: Annotated[bool, json_option("Print summary.json instead of the tables.")] = False,
) -> None:
    """Simulate a large grid in parallel, keep every finished cell at once, and show what no cell beats."""
    from kvsim.scenario.decode import Scenario

    loaded = load_chosen(scenario, overrides)
    experiment = loaded.of_type(Scenario, "sweep")
    from kvsim.experiments.decode.sweep.sweep import sweep as run_sweep

    folder = output_folder(output or Path(experiment.output.folder), experiment.name)
    try:
        with bar(f"sweeping {experiment.name}") as shown:
            job = loaded.job(command=command_text(), progress=shown.advance)
            swept = run_sweep(experiment, folder, job, num_workers=workers, scheduler=dask, fresh=not resume)
    except KeyboardInterrupt:
        typer.echo("interrupted; finished cells are kept, the same command goes on from them", err=True)
        raise typer.Exit(INTERRUPTED) from None
    fields = [field.strip() for field in heat.split(",")] if heat else []
    _print_and_write(swept, folder, fields, figures=figures and experiment.output.figures, as_json=as_json)
    if swept.failed:
        raise typer.Exit(2)


def whatif(
    result: Annotated[Path, typer.Argument(help="The folder that `kvsim run` or `kvsim sweep` wrote.")],
    overrides: Annotated[
        list[str] | None,
        set_option("Change a field; profile.link_bandwidth, compute_speed, host_speed take a factor: x2. Repeatable."),
    ] = None,
    reach: Annotated[
        str | None, typer.Option(metavar="FIGURE<=VALUE", help="Find what reaches a figure, as in tpot_p50_s<=0.05.")
    ] = None,
    over: Annotated[
        str | None, typer.Option(metavar="KEY=LOW:HIGH", help="The field to search for --reach, and its bounds.")
    ] = None,
    output: Annotated[
        Path | None, output_option("DIR", "Folder for the changed result; beside RESULT where absent.")
    ] = None,
    as_json: FiguresAsJson = False,
) -> None:
    """Simulate a result again on hardware or settings one does not have, beside the first."""
    from kvsim.errors import ScenarioError
    from kvsim.report.results import load_result

    if not overrides and reach is None:
        raise ScenarioError("whatif: say what to change with --set, or what to reach with --reach and --over")
    if (reach is None) != (over is None):
        raise ScenarioError("whatif: --reach and --over go together, as in --reach 'tpot_p50_s<=0.05' --over KEY=1:64")
    base = load_result(result)
    if reach is not None and over is not None:
        _reach(base, reach, over, overrides or [], as_json=as_json)
        return
    from kvsim.experiments.decode.report.whatif_tables import whatif_contents, whatif_text
    from kvsim.experiments.decode.sweep.whatif import origin_of, paired
    from kvsim.experiments.decode.sweep.whatif import whatif as simulate_again
    from kvsim.experiments.pages import report_file
    from kvsim.report.reading import reading
    from kvsim.report.results import summary_json, write_result

    with reading(result):  # refuses before a folder is made, and before the work
        origin_of(base).scenario()
        itself = list(paired(base.summary, base.summary))
        whatif_contents([], itself)
        whatif_text([], itself, base.summary)
    name = str(base.summary["scenario"])
    folder = output_folder(output or _folder_of(result, name), name)
    with bar("simulating the change") as shown:
        simulated = simulate_again(base, overrides or [], command=command_text(), progress=shown.advance)
    contents = summary_json(whatif_contents(simulated.changes, simulated.pairs))
    text = contents if as_json else whatif_text(simulated.changes, simulated.pairs, simulated.result.summary)
    written = write_or_print(lambda: write_result(simulated.result, folder, report_file(simulated.result)), text)
    typer.echo(text if as_json else f"{text}\n\nresult: {written}", nl=not as_json)


def _folder_of(result: Path, scenario: str) -> Path:
    """Return the folder of results that puts another result of a scenario beside `result`."""
    folder = result.resolve().parent
    return folder.parent if folder.name == scenario else folder


def _reach(base: RunResult, reach: str, over: str, changes: list[str], *, as_json: bool) -> None:
    from dataclasses import asdict

    from kvsim.errors import ScenarioError
    from kvsim.experiments.decode.report.whatif_tables import reach_text
    from kvsim.experiments.decode.sweep.reach import reach as search
    from kvsim.report.results import summary_json

    figure, sign, most = (part.strip() for part in reach.partition("<="))
    key, _, bounds = (part.strip() for part in over.partition("="))
    low, _, high = bounds.partition(":")
    try:
        limits = float(most), float(low.lstrip("x")), float(high.lstrip("x"))
    except ValueError:
        limits = None
    if limits is None or not sign:
        raise ScenarioError(
            f"whatif: --reach {reach!r} --over {over!r}: write --reach 'tpot_p50_s<=0.05' --over KEY=LOW:HIGH"
        )
    with bar(f"searching {key}"):
        reached = search(base, figure, limits[0], key, limits[1], limits[2], changes=changes)
    if as_json:
        typer.echo(summary_json({"figure": figure, "most": limits[0], "key": key, "found": [*map(asdict, reached)]}))
        return
    typer.echo(reach_text(figure, limits[0], key, (limits[1], limits[2]), reached))


def _print_and_write(swept: Sweep, folder: Path, fields: list[str], *, figures: bool, as_json: bool) -> None:
    """Write the result, and print what it comes to."""
    from kvsim.errors import ResultError
    from kvsim.experiments.decode.report.sweep_figures import sweep_figures
    from kvsim.experiments.decode.report.sweep_front import front_of
    from kvsim.experiments.decode.report.sweep_tables import sweep_text
    from kvsim.experiments.pages import report_file
    from kvsim.report.results import records_parquet, summary_json, write_result

    summary = swept.result.summary
    on_front = set(front_of(summary))
    cells = [cell | {"on_front": number in on_front} for number, cell in enumerate(summary["cells"])]
    files = {"cells.parquet": records_parquet(cells)}
    if figures:
        files |= sweep_figures(summary, fields) | report_file(swept.result)
    tracebacks = [f"{cell}\n{cell.traceback}" for cell in swept.failed if cell.traceback]
    if tracebacks:
        files["failed.txt"] = "\n".join(tracebacks).encode()
    text = summary_json(summary) if as_json else sweep_text(summary)
    try:
        written = write_or_print(lambda: write_result(swept.result, folder, files), text)
    except ResultError as problem:
        raise ResultError(f"{problem}; the finished cells are kept in {swept.folder}") from None
    typer.echo(text, nl=not as_json)
    if as_json:
        return
    typer.echo(f"\n{swept.num_simulated} cells simulated, {swept.num_reused} found finished in {swept.folder}")
    typer.echo(f"result: {written}")
    for name in sorted(files):
        typer.echo(f"  {written / name}")
