"""The commands `kvsim capture`, `kvsim trace info` and `kvsim trace fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvsim.cli.choices import Device, DTypeName, Figures, Pictures, output_option
from kvsim.cli.outputs import as_argument, draw, output_file, output_folder, write_or_print
from kvsim.cli.terminal import bar, command_text, need_torch

PAGE_TOKENS = 32
PageTokens = Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a page.")]


trace_app = typer.Typer(help="Look at recorded accesses, and fit a generator to them.")


def capture(
    model: Annotated[str, typer.Option(metavar="PATH_OR_ID", help="Model folder, GGUF file, or hub id.")],
    text: Annotated[Path, typer.Option(metavar="FILE", help="The text that the model reads, UTF-8.")],
    output: Annotated[Path, output_option("FILE", "The trace to write, *.kvtrace.")],
    prompt_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens read before decoding begins.")] = 4096,
    decode_tokens: Annotated[int, typer.Option(metavar="N", help="Decode steps to record.")] = 256,
    channel: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Score channel with its page size, as in estimate:quest@32. Repeatable."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="Sample the next token; the text's own where absent.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the sampling.")] = 0,
    device: Annotated[Device, typer.Option(metavar="cpu|cuda", help="Where the model runs.")] = Device.cpu,
    dtype: Annotated[DTypeName, typer.Option(metavar="fp32|bf16|fp16", help="Of weights and cache.")] = DTypeName.fp32,
) -> None:
    """Record what a real model attends to while it reads a text."""
    need_torch("capture")
    from kvsim.engine.capture.capture import DEFAULT_CHANNELS, CaptureRequest, capture_file
    from kvsim.units import format_bytes

    request = CaptureRequest(
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        channels=tuple(channel or DEFAULT_CHANNELS),
        temperature=temperature,
        seed=seed,
    )

    output_file(output, ".kvtrace")
    with bar("loading") as shown:

        def announce(memory_bytes: int, file_bytes: int) -> None:
            sizes = f"about {format_bytes(memory_bytes)} of memory, a file of {format_bytes(file_bytes)}"
            shown.say(f"capturing {decode_tokens} steps: {sizes}")

        capture_file(
            model,
            text,
            output,
            request,
            dtype=dtype.value,
            device=device.value,
            recipe=command_text(),
            announce=announce,
            progress=shown.stage,
        )
    typer.echo(f"{output}: written; see `kvsim trace info {as_argument(output, '.kvtrace')}`")


@trace_app.command("info")
def trace_info(
    file: Annotated[str, typer.Argument(help="A trace, or the name of a shipped capture.")],
    page_tokens: PageTokens = PAGE_TOKENS,
    output: Pictures = Path("results"),
    figures: Figures = True,
) -> None:
    """Print how sparse and how predictable a trace is, by layer, and draw it."""
    from kvsim.report.html.trace_page import trace_page
    from kvsim.report.trace_figures import trace_figure
    from kvsim.report.trace_table import trace_text
    from kvsim.scenario.shipped import find_capture
    from kvsim.traces.access.file import open_trace
    from kvsim.traces.access.statistics import measure_statistics

    path = find_capture(file)
    trace = open_trace(path)
    if figures:
        output_folder(output)
    statistics = measure_statistics(trace, page_tokens)
    typer.echo(f"{path}\n{trace_text(statistics, trace.header)}")
    if figures:
        page = trace_page(statistics, trace.header, path.stem, command=command_text(), path=str(path))
        draw(trace_figure(statistics, path.stem), page, output, f"trace-{path.stem}")


@trace_app.command("fit")
def trace_fit(
    file: Annotated[str, typer.Argument(help="A trace, or the name of a shipped capture.")],
    output: Annotated[Path, output_option("FILE", "The parameters to write, *.toml.")],
    page_tokens: PageTokens = PAGE_TOKENS,
    channel: Annotated[
        str, typer.Option(metavar="NAME", help="The estimate to fit beside the mass.")
    ] = "estimate:quest",
) -> None:
    """Fit a generator to a trace, and print the statistics of both and what the generator misses."""
    from kvsim.experiments.decode.generator_check import fit_text
    from kvsim.scenario.shipped import find_capture
    from kvsim.traces.access.file import open_trace
    from kvsim.traces.generator.fit import fit_generator
    from kvsim.traces.generator.parameters import write_parameters

    path = find_capture(file)
    trace = open_trace(path)
    output_file(output, ".toml")
    parameters = fit_generator(trace, page_tokens, channel, name=path.stem)
    text = fit_text(trace, parameters)
    write_or_print(lambda: write_parameters(parameters, output), text)
    typer.echo(f"{text}\n\n{output}: written")
