"""The command ``kvsim``: parses, calls, prints. Every command loads its room only when it is called."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kvsim import __version__
from kvsim.cli import card, measure, model, mrc, plan, policy, profiles, report, search, serving, timeline, traces
from kvsim.cli.choices import Figures, Overrides, ResultFolder, ScenarioName, SummaryAsJson, load_chosen
from kvsim.cli.outputs import output_folder, write_or_print
from kvsim.cli.terminal import bar, command_text, drop_unwritten, exit_code

app = typer.Typer(
    name="kvsim",
    help="What a KV cache that does not fit costs: simulated and measured with the same policies.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_GARBAGE_THRESHOLDS = (100_000, 20, 20)
"""New objects before young ones are searched for garbage, and how often before older ones are (Python: 700, 10, 10)."""

_RUN_A_MODEL = ("capture", "calibrate", "measure", "crosscheck", "timeline")
"""Commands that may load torch, which may share its threads with numpy's linear algebra."""


def main() -> None:
    """Run the command line and exit with its code. Plug-ins are found in the current folder too.

    Modules make many objects that stay, and searching them for garbage, again and again and once more at the end, takes
    longer than most commands: so it is done less often, and not at the end.
    """
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    use_one_thread(sys.argv[1:])
    sys.path.append(str(Path.cwd()))
    try:
        code = run_command(sys.argv[1:])
    finally:
        drop_unwritten()
    gc.freeze()
    sys.exit(code)


def use_one_thread(arguments: list[str]) -> None:
    """Let numpy start no threads for linear algebra, of which a simulation has none: they cost it 0.1 s of processor.

    What the environment says goes first.
    """
    if not {*arguments[:1]} & {*_RUN_A_MODEL}:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    return exit_code(app, arguments)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"kvsim {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def run(
    scenario: ScenarioName,
    overrides: Overrides = None,
    as_json: SummaryAsJson = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Replay what a measured result in DIR recorded.")
    ] = None,
    output: ResultFolder = None,
    figures: Figures = True,
) -> None:
    """Simulate a scenario; print its table and verdict, and keep rows, summary, pictures and a report in a folder."""
    loaded = load_chosen(scenario, overrides)  # reports its errors before the slow imports
    folder = output_folder(output or Path(loaded.scenario.output.folder), loaded.scenario.name)
    from kvsim.experiments.pages import report_file
    from kvsim.experiments.registry import load_experiment, simulate
    from kvsim.report.results import summary_json, write_result

    experiment = load_experiment(loaded.experiment)
    with bar(f"simulating {loaded.scenario.name}") as shown:
        job = loaded.job(command=command_text(), progress=shown.advance, recorded=trace)
        result = simulate(loaded, job)
    is_drawn = figures and loaded.scenario.output.figures
    drawn = {**experiment.figures(result), **report_file(result)} if is_drawn else {}
    text = summary_json(result.summary) if as_json else experiment.show(result.summary)
    written = write_or_print(lambda: write_result(result, folder, drawn), text)
    typer.echo(text, nl=not as_json)
    if not as_json:
        typer.echo("\n".join([f"\nresult: {written}", *(f"  {written / picture}" for picture in sorted(drawn))]))


@app.command()
def show(result: Annotated[Path, typer.Argument(help="A result folder.")], as_json: SummaryAsJson = False) -> None:
    """Print the table of a result again."""
    from kvsim.experiments.registry import experiment_of, load_experiment
    from kvsim.report.reading import reading
    from kvsim.report.results import load_result, summary_json

    loaded = load_result(result)
    if as_json:
        typer.echo(summary_json(loaded.summary), nl=False)
        return
    experiment = load_experiment(experiment_of(loaded))
    with reading(result):
        text = experiment.show(loaded.summary)
    typer.echo(text)


@app.command()
def check(
    file: ScenarioName,
    overrides: Overrides = None,
) -> None:
    """Validate a scenario, the files it names and its budgets, without running it."""
    from kvsim.experiments.registry import load_experiment

    loaded = load_chosen(file, overrides)
    experiment = load_experiment(loaded.experiment)
    num_cells = experiment.check(loaded.scenario, loaded.base_dir)
    for line in experiment.warnings(loaded.scenario, loaded.base_dir):
        typer.echo(line)
    typer.echo(f"{loaded.where}: fine, {num_cells} cells")


@app.command()
def scenarios() -> None:
    """List the scenarios that ship, each with its experiment and the question it answers."""
    from kvsim.experiments.registry import load_scenario
    from kvsim.scenario.shipped import shipped_scenarios

    for name, path in shipped_scenarios().items():
        loaded = load_scenario(path)
        typer.echo(f"{name:<20} {loaded.experiment:<14} {loaded.scenario.question}")


@app.command()
def init(name: Annotated[str, typer.Argument(help="Name of the scenario, or the file to write.")]) -> None:
    """Write a commented scenario to start from."""
    from kvsim.scenario.shipped import write_template

    path = write_template(name)
    typer.echo(f"{path}: written; try `kvsim run {path}`")


for _command in (
    traces.capture,
    profiles.calibrate,
    measure.measure,
    measure.compare,
    measure.crosscheck,
    timeline.timeline,
    search.sweep,
    search.whatif,
    report.report,
    mrc.mrc,
    plan.plan,
):
    app.command()(_command)
for _name, _group in {
    "trace": traces.trace_app,
    "profile": profiles.profile_app,
    "serving": serving.serving_app,
    "policy": policy.policy_app,
    "model": model.model_app,
    "card": card.card_app,
}.items():
    app.add_typer(_group, name=_name)
