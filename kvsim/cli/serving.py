"""The commands about many requests on one engine: ``kvsim serving``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvsim.cli.choices import FiguresAsJson, FixedOverrides, load_chosen, output_option
from kvsim.cli.outputs import output_file, output_folder
from kvsim.cli.terminal import bar

serving_app = typer.Typer(help="Many requests on one engine.")


@serving_app.command()
def schedule(
    workload: Annotated[Path, typer.Argument(help="A workload file, or a recorded schedule: JSON, plain or gzip.")],
    output: Annotated[Path, output_option("FILE", "File for the schedule; .gz compresses it.")],
    scheduler: Annotated[str, typer.Option(metavar="NAME", help="vllm, static, or package.module:Class.")] = "vllm",
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Compare with the steps that the workload file has; exit 1 if they differ."),
    ] = False,
) -> None:
    """Schedule a workload step by step, without a clock, as vLLM 0.32 would, and write every step."""
    from kvsim.errors import TraceError
    from kvsim.experiments.serving.schedules.compare import first_difference
    from kvsim.experiments.serving.schedules.workload import read_workload
    from kvsim.experiments.serving.schedules.write import write_schedule

    recorded = read_workload(workload)
    if compare and recorded.steps is None:
        raise TraceError(workload, "it has no steps to compare with: leave out --compare, or name a recorded schedule")
    output_file(output, ".json.gz")
    totals = write_schedule(output, recorded, scheduler)
    typer.echo(f"{output}: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in totals.items()))
    if compare:
        difference = first_difference(recorded, read_workload(output).steps or ())
        typer.echo(difference or f"equal to {workload} in all steps")
        if difference:
            raise typer.Exit(1)


@serving_app.command()
def capacity(
    scenario: Annotated[str, typer.Argument(help="A scenario of serving, or the name of a shipped one.")],
    overrides: FixedOverrides = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="How many different traffics to try.")] = 5,
    tolerance: Annotated[
        float, typer.Option(metavar="SHARE", min=0.001, max=0.5, help="How near the rate is to be found.")
    ] = 0.02,
    output: Annotated[Path | None, output_option("DIR", "Folder for a picture and the figures as JSON.")] = None,
    as_json: FiguresAsJson = False,
) -> None:
    """Find the highest rate that meets the SLO of a scenario, and say how sure it is."""
    from kvsim.experiments.serving.scenario import Serving

    loaded = load_chosen(scenario, overrides)
    chosen = loaded.of_type(Serving, "kvsim serving capacity")
    if output is not None:
        output_folder(output)
    from kvsim.experiments.serving.capacity import find_capacity
    from kvsim.experiments.serving.report.capacity import capacity_contents, capacity_figure, capacity_text
    from kvsim.report.results import summary_json, write_picture
    from kvsim.report.style import png

    with bar(f"searching {chosen.name}") as shown:
        highest = find_capacity(
            chosen, loaded.base_dir, num_seeds=seeds, tolerance_frac=tolerance, progress=shown.advance
        )
    met_frac = chosen.slo.met_frac if chosen.slo else 1.0
    contents = summary_json(capacity_contents(highest, met_frac))
    typer.echo(contents if as_json else capacity_text(highest, met_frac), nl=not as_json)
    if output is not None:
        write_picture(contents.encode(), output, "capacity.json")
        picture = write_picture(png(capacity_figure(highest, chosen.name, met_frac)), output, "capacity.png")
        if not as_json:
            typer.echo(f"\npicture: {picture}")
