"""What commands share: options, and the scenario that they name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvsim.cli.outputs import named

if TYPE_CHECKING:
    from kvsim.experiments.registry import LoadedScenario


class Device(StrEnum):
    """Where torch runs."""

    cpu = "cpu"
    cuda = "cuda"


class DTypeName(StrEnum):
    """Numbers of weights and cache."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def output_option(metavar: str, text: str) -> Any:
    """Return the option that names what a command writes: a ``DIR`` or a ``FILE``."""
    return typer.Option("--output", "-o", metavar=metavar, parser=named, help=text)


def set_option(text: str) -> Any:
    """Return the option that changes fields, as ``--set KEY=VALUE``."""
    return typer.Option("--set", metavar="KEY=VALUE", help=text)


def json_option(text: str) -> Any:
    """Return the option that prints JSON in place of text for people."""
    return typer.Option("--json", help=text)


ScenarioName = Annotated[str, typer.Argument(help="A scenario file, or the name of a shipped one.")]
Overrides = Annotated[list[str] | None, set_option("Override a field; a list sweeps it. Repeatable.")]
FixedOverrides = Annotated[list[str] | None, set_option("Override a field. Repeatable.")]
ResultFolder = Annotated[Path | None, output_option("DIR", "Folder for results, instead of the scenario's.")]
Pictures = Annotated[Path, output_option("DIR", "Folder for the picture.")]
Figures = Annotated[bool, typer.Option("--figures/--no-figures", help="Draw pictures.")]
SummaryAsJson = Annotated[bool, json_option("Print summary.json instead of the table.")]
FiguresAsJson = Annotated[bool, json_option("Print the figures as JSON.")]
ObjectsAsJson = Annotated[bool, json_option("Print objects instead of text.")]


def load_chosen(scenario: str, overrides: list[str] | None = None) -> LoadedScenario:
    """Return the scenario that a command names, with its overrides.

    Raises
    ------
    ScenarioError
        With a line for every error.
    """
    from kvsim.experiments.registry import load_scenario
    from kvsim.scenario.shipped import find_scenario

    return load_scenario(find_scenario(scenario), overrides or ())
