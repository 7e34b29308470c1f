"""The command that compares prefetchers: `kvsim policy predictors`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvsim.cli.outputs import named, output_folder
from kvsim.cli.terminal import bar, command_text


def add_predictors(app: typer.Typer) -> None:
    """Give `app` the command of this file."""
    app.command()(predictors)


def predictors(
    captures: Annotated[
        list[str] | None,
        typer.Option("--capture", metavar="CAPTURE", help="An access trace, or a shipped one. Repeatable; all three."),
    ] = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option("--profile", metavar="PROFILE", help="What things cost: a profile, or a shipped one. Repeatable."),
    ] = None,
    k_pages: Annotated[int, typer.Option(metavar="K", min=1, help="Pages that attention reads in a layer.")] = 8,
    budgets: Annotated[
        list[str] | None,
        typer.Option(
            "--budget", metavar="PAGES:MOVED", help="Pages a layer, and bytes to move over those of no prefetching."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", parser=named, help="Write the result there, with a picture."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of the table.")] = False,
) -> None:
    """Compare prefetchers at equal budget and equal bytes: what they foretell, avoid and save."""
    import dataclasses

    from kvsim.experiments.decode.predictors.compare import Contest, compare_predictors, parse_budget, result_of
    from kvsim.experiments.decode.report.predictors import predictors_figure, predictors_text, predictors_verdict
    from kvsim.report.results import summary_json, write_result
    from kvsim.report.style import png

    if output is not None:
        output_folder(output)
    contest = dataclasses.replace(Contest(), k_pages=k_pages)
    if captures:
        contest = dataclasses.replace(contest, captures=tuple(captures))
    if profiles:
        contest = dataclasses.replace(contest, profiles=tuple(profiles))
    if budgets:
        contest = dataclasses.replace(contest, budgets=tuple(parse_budget(text) for text in budgets))
    with bar("comparing predictors") as shown:
        records = compare_predictors(contest, shown.advance)
    result = result_of(contest, records, verdict=predictors_verdict(records), command=command_text())
    if as_json:
        typer.echo(summary_json(result.summary), nl=False)
    else:
        typer.echo(predictors_text(records))
        typer.echo("")
        for line in result.summary["verdict"]:
            typer.echo(line)
    if output is not None:
        files = {
            "predictors.png": png(predictors_figure(records)),
            "table.md": (predictors_text(records, markdown=True) + "\n").encode(),
        }
        written = write_result(result, output, files)
        typer.echo(f"result: {written}", err=as_json)
