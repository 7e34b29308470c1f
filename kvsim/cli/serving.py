"""The commands about many requests on one engine: ``kvsim serving``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_serving(app: typer.Typer) -> None:
    """Give `app` the commands of this file."""
    serving = typer.Typer(help="Many requests on one engine.", rich_markup_mode=None)
    serving.command()(schedule)
    app.add_typer(serving, name="serving")


def schedule(
    workload: Annotated[Path, typer.Argument(help="A workload file, or a recorded schedule: JSON, plain or gzip.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="File for the schedule; .gz compresses it.")
    ],
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
    totals = write_schedule(output, recorded, scheduler)
    typer.echo(f"{output}: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in totals.items()))
    if compare:
        difference = first_difference(recorded, read_workload(output).steps or ())
        typer.echo(difference or f"equal to {workload} in all steps")
        if difference:
            raise typer.Exit(1)
