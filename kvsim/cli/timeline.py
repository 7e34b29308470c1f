"""The command that draws who does what when: `kvsim timeline`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvsim.cli.choices import FixedOverrides, ScenarioName, load_chosen, output_option
from kvsim.cli.outputs import output_file
from kvsim.cli.terminal import bar, command_text, need_torch

if TYPE_CHECKING:
    from kvsim.report.timeline import TimedRun


def timeline(
    scenario: ScenarioName,
    output: Annotated[Path, output_option("FILE", "The timeline to write, *.json.")],
    cell: Annotated[int, typer.Option(metavar="N", min=0, help="Which cell, as in a result's rows.")] = 0,
    steps: Annotated[
        str | None,
        typer.Option(metavar="FIRST:END", help="3:5 for steps 3 and 4; the first two that count where absent."),
    ] = None,
    measured: Annotated[
        bool, typer.Option("--measured", help="Run the cell for real too, and simulate what it accessed.")
    ] = False,
    overrides: FixedOverrides = None,
) -> None:
    """Write who does what when in some steps of a cell, for Perfetto: host, compute, copies both ways."""
    if measured:
        need_torch("timeline --measured")
    from kvsim.scenario.decode import Scenario

    loaded = load_chosen(scenario, overrides)
    experiment = loaded.of_type(Scenario, "timeline")
    from kvsim.report.results import write_picture
    from kvsim.report.timeline import parse_steps, timeline_json

    warmup = experiment.run.warmup_steps
    shown_steps = parse_steps(steps or f"{warmup}:{warmup + 2}")
    output_file(output, ".json")
    runs: list[TimedRun] = []
    with bar(f"timing {experiment.name}") as shown:
        job = loaded.job(progress=shown.advance)
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
