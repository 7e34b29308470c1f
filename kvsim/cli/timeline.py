"""The command that draws who does what when: `kvsim timeline`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvsim.cli.terminal import bar, command_text, need_torch

if TYPE_CHECKING:
    from kvsim.report.timeline import TimedRun


def add_timeline(app: typer.Typer) -> None:
    """Give `app` the command of this file."""
    app.command()(timeline)


def timeline(
    scenario: Annotated[str, typer.Argument(help="A scenario file, or the name of a shipped one.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The timeline to write, *.json.")],
    cell: Annotated[int, typer.Option(metavar="N", min=0, help="Which cell, as in a result's rows.")] = 0,
    steps: Annotated[
        str | None,
        typer.Option(metavar="FIRST:END", help="3:5 for steps 3 and 4; the first two that count where absent."),
    ] = None,
    measured: Annotated[
        bool, typer.Option("--measured", help="Run the cell for real too, and simulate what it accessed.")
    ] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a field. Repeatable."),
    ] = None,
) -> None:
    """Write who does what when in some steps of a cell, for Perfetto: host, compute, copies both ways."""
    if measured:
        need_torch("timeline --measured")
    from kvsim.experiments.registry import load_scenario
    from kvsim.scenario.decode import Scenario
    from kvsim.scenario.shipped import find_scenario

    loaded = load_scenario(find_scenario(scenario), overrides or ())
    experiment = loaded.of_type(Scenario, "timeline")
    from kvsim.experiments.types import Job
    from kvsim.report.results import write_picture
    from kvsim.report.timeline import parse_steps, timeline_json

    warmup = experiment.run.warmup_steps
    shown_steps = parse_steps(steps or f"{warmup}:{warmup + 2}")
    runs: list[TimedRun] = []
    with bar(f"timing {experiment.name}") as shown:
        job = Job(base_dir=loaded.base_dir, progress=shown.advance)
        if measured:
            from kvsim.experiments.decode.measure import measure_timeline

            runs += measure_timeline(experiment, cell, job)
        else:
            from kvsim.experiments.decode.simulate import simulate_timeline

            runs = [simulate_timeline(experiment, cell, job)]
    about = {"scenario": experiment.name, "cell": cell, "command": command_text()}
    content = timeline_json(runs, shown_steps, about=about)
    write_picture(content.encode(), output.parent, output.name)
    typer.echo(f"{output}: written; open it in https://ui.perfetto.dev")
