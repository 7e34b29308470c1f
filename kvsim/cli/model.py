"""The commands about models: `kvsim model list` and `show`. They read sizes only, and need no torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from kvsim.cli.choices import ObjectsAsJson

model_app = typer.Typer(help="Sizes of models: parameters, bytes of weights and of the KV cache.")


@model_app.command("list")
def model_list(as_json: ObjectsAsJson = False) -> None:
    """List the models that ship, with their parameters and the bytes of their KV cache."""
    from kvsim.report.model_table import model_list_text
    from kvsim.scenario.models.listing import list_models

    rows = list(list_models())
    typer.echo(json.dumps([asdict(row) for row in rows], indent=2) if as_json else model_list_text(rows))


@model_app.command("show")
def model_show(
    name: Annotated[
        str,
        typer.Argument(help="A model that ships, a config.json, a folder with one, or a hub id in the local cache."),
    ],
    kv: Annotated[str, typer.Option(metavar="FORMAT", help="Of the KV cache: bf16, fp8, int8, int4, ...")] = "bf16",
    as_json: ObjectsAsJson = False,
) -> None:
    """Print a model's layers by kind, parameters, bytes of weights, and what a context takes."""
    from kvsim.report.model_table import model_text
    from kvsim.scenario.models.describe import describe
    from kvsim.scenario.models.find import find_model
    from kvsim.scenario.models.known import known_models
    from kvsim.scenario.models.uniform import differences

    spec = find_model(name)
    shown, not_paged = describe(spec, kv=kv), "; ".join(differences(spec))
    if as_json:
        typer.echo(json.dumps(asdict(shown) | {"not_paged": not_paged}, indent=2))
    else:
        typer.echo(model_text(shown, not_paged, known_models().get(spec.name)))
