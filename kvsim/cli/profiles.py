"""The commands `kvsim calibrate` and `kvsim profile show`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kvsim.cli.choices import Device, DTypeName, Figures, Pictures, output_option
from kvsim.cli.outputs import as_argument, draw, output_file, output_folder, write_or_print
from kvsim.cli.terminal import bar, command_text, need_torch


class QuantisationName(StrEnum):
    """How weights are packed."""

    eight = "8bit"
    four = "4bit"


class EngineName(StrEnum):
    """What runs the model."""

    kvsim = "kvsim"
    vllm = "vllm"


profile_app = typer.Typer(help="Look at what calibrate measured.")


def calibrate(
    output: Annotated[Path, output_option("FILE", "The profile to write, *.toml.")],
    model: Annotated[str | None, typer.Option(metavar="PATH_OR_ID", help="Model folder, GGUF file, or hub id.")] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="NAME", help="Or a known shape, as in llama-3-8b, with random weights.")
    ] = None,
    device: Annotated[Device, typer.Option(metavar="cpu|cuda", help="What to measure.")] = Device.cpu,
    dtype: Annotated[
        DTypeName | None, typer.Option(metavar="fp32|bf16|fp16", help="Of weights and cache; bf16 where absent.")
    ] = None,
    quantisation: Annotated[
        QuantisationName | None, typer.Option(metavar="8bit|4bit", help="Pack the weights with bitsandbytes.")
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Bytes a second: holds an emulated link, slows a GPU's: '0.2 GB'."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Under a minute, with a coarser grid.")] = False,
    engine: Annotated[
        EngineName, typer.Option(metavar="kvsim|vllm", help="vllm: time steps of vLLM too, for scenarios of serving.")
    ] = EngineName.kvsim,
) -> None:
    """Measure what each segment of a decode step and each copy costs on this machine."""
    need_torch("calibrate")
    if engine is EngineName.vllm:
        _check_vllm(model)
    from kvsim.experiments.calibrate import calibrate
    from kvsim.profile.profile import write_profile
    from kvsim.report.profile_table import profile_text
    from kvsim.units import parse_bytes

    bandwidth_bytes_per_s = parse_bytes(bandwidth.removesuffix("/s")) if bandwidth else None
    output_file(output, ".toml")
    with bar("loading") as shown:
        profile = calibrate(
            model,
            shape=shape,
            dtype=dtype.value if dtype else None,
            quantisation=quantisation.value if quantisation else None,
            device=device.value,
            name=output.stem,
            quick=quick,
            bandwidth_bytes_per_s=bandwidth_bytes_per_s,
            command=command_text(),
            progress=shown.stage,
        )
        if engine is EngineName.vllm:
            from kvsim.calibration.serving import calibrate_serving

            serving = calibrate_serving(str(model), quick=quick, progress=shown.stage)
            profile = profile.model_copy(update={"serving": serving})
    write_or_print(lambda: write_profile(profile, output), profile_text(profile))
    typer.echo(f"{output}: written; see `kvsim profile show {as_argument(output, '.toml')}`")


def _check_vllm(model: str | None) -> None:
    """Refuse what would fail only after the rest was measured."""
    from kvsim.engine.vllm import find_python
    from kvsim.errors import CalibrationError

    if model is None or not (Path(model) / "config.json").is_file():
        raise CalibrationError("--engine vllm: --model should be a folder of safetensors; `make model` makes one")
    find_python()


@profile_app.command("show")
def profile_show(
    file: Annotated[str, typer.Argument(help="A profile, or the name of a shipped one.")],
    output: Pictures = Path("results"),
    figures: Figures = True,
) -> None:
    """Print a profile's costs with their residuals, and draw the curves over the samples."""
    from kvsim.profile.profile import load_profile
    from kvsim.scenario.shipped import find_profile

    profile = load_profile(find_profile(file))
    if figures:
        output_folder(output)
    from kvsim.report.html.profile_page import profile_page
    from kvsim.report.profile_figures import profile_figure
    from kvsim.report.profile_table import profile_text

    typer.echo(profile_text(profile))
    if figures:
        page = profile_page(profile, command=command_text(), path=file)
        draw(profile_figure(profile), page, output, f"profile-{profile.name}")
