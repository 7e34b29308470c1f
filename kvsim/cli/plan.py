"""The command `kvsim plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvsim.cli.choices import ObjectsAsJson, output_option
from kvsim.cli.outputs import named, output_file
from kvsim.cli.terminal import command_text

if TYPE_CHECKING:
    from kvsim.experiments.plan import Plan


def plan(
    model: Annotated[str, typer.Option(metavar="NAME|PATH", help="A model of `kvsim model list`, or a config.json.")],
    gpu: Annotated[str, typer.Option(metavar="NAME|FILE", help="A card of `kvsim card list`, or its TOML file.")],
    context: Annotated[str, typer.Option(metavar="TOKENS", help="Tokens of each sequence: 64k is 65,536.")],
    batch: Annotated[int, typer.Option(metavar="N", help="Sequences at once.")] = 1,
    weights: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="Of the weights: bf16, fp8, int8, int4, ...; as published.")
    ] = None,
    kv: Annotated[str | None, typer.Option(metavar="FORMAT", help="Of the KV cache: bf16 or fp8.")] = None,
    tpot: Annotated[str | None, typer.Option(metavar="TIME", help="Most time per output token: 50ms.")] = None,
    recall: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Least attention recall to recommend; 0.9 if not given.")
    ] = None,
    host_memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Host memory for pages: 64GiB.")] = None,
    utilisation: Annotated[float, typer.Option(metavar="SHARE", help="Of the card's memory, as vLLM's 0.9.")] = 0.9,
    reserve: Annotated[str, typer.Option(metavar="SIZE", help="Of the runtime: context and graphs.")] = "0.5GiB",
    step_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens of one step of a prefill.")] = 2048,
    eager: Annotated[bool, typer.Option("--eager", help="Kernels launched one by one, not as one graph.")] = False,
    output: Annotated[Path | None, output_option("FILE", "Scenario that reproduces it: plan.toml.")] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=named, help="Picture of the options: plan.png.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=named, help="Page of the options to send on: plan.html.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Every table beside the page, as CSV and as Parquet.")] = False,
    as_json: ObjectsAsJson = False,
) -> None:
    """Answer what fits on a card, what each way of managing the KV cache would give, and what to do."""
    from dataclasses import replace

    from kvsim.errors import ScenarioError
    from kvsim.experiments.plan import plan as make_plan
    from kvsim.experiments.plan.notes import commands_of
    from kvsim.experiments.plan.report.text import plan_json, plan_text
    from kvsim.experiments.plan.scenario import write_scenario
    from kvsim.units import parse_bytes, parse_seconds, parse_tokens

    if output is not None:
        output_file(output, ".toml")
    if csv and report is None:
        raise ScenarioError("plan: --csv writes the tables of a page: add --report FILE.html")
    for file, suffix in ((picture, ".png"), (report, ".html")):
        if file is not None:
            output_file(file, suffix)
    made = make_plan(
        model,
        gpu,
        context_tokens=parse_tokens(context),
        batch=batch,
        weights=weights,
        kv=kv,
        tpot_s=parse_seconds(tpot) if tpot else None,
        recall_frac=recall,
        host_memory_bytes=parse_bytes(host_memory) if host_memory else None,
        utilisation_frac=utilisation,
        reserve_bytes=parse_bytes(reserve),
        step_tokens=step_tokens,
        runtime="eager" if eager else "graph",
    )
    if output is not None:
        write_scenario(made.scenario, made.request, output, command_text())
        made = replace(made, commands=commands_of(made.request, made.scenario, str(output)))
    typer.echo(json.dumps(plan_json(made), indent=2) if as_json else plan_text(made))
    if picture is not None:
        from kvsim.experiments.plan.report.figure import plan_figure
        from kvsim.report.results import write_picture
        from kvsim.report.style import png

        write_picture(png(plan_figure(made)), picture.parent, picture.name)
    if report is not None:
        _report(made, report, csv=csv)


def _report(made: Plan, path: Path, *, csv: bool) -> None:
    from kvsim.experiments.plan.report.page import plan_page
    from kvsim.report.frames import table_files
    from kvsim.report.html.page import page_html
    from kvsim.report.results import write_picture

    page = plan_page(made, command=command_text())
    write_picture(page_html(page), path.parent, path.name)
    tables = table_files({table.title.split()[0].lower(): table.rows for table in page.tables}, {}) if csv else {}
    for name, content in tables.items():
        write_picture(content, path.parent, f"{path.stem}-{name}")
