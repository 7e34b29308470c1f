"""Options that commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kvsim.cli.outputs import named


class Device(StrEnum):
    """Where torch runs."""

    cpu = "cpu"
    cuda = "cuda"


class DTypeName(StrEnum):
    """Numbers of weights and cache."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


Pictures = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", parser=named, help="Folder for the picture.")]
Figures = Annotated[bool, typer.Option("--figures/--no-figures", help="Draw pictures.")]
