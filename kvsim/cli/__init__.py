"""The command ``kvsim``: parses, calls, prints. Every command loads its room only when it is called."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvsim import __version__
from kvsim.cli.card import add_card
from kvsim.cli.measure import add_commands
from kvsim.cli.model import add_model
from kvsim.cli.mrc import add_caches
from kvsim.cli.outputs import as_argument, kept, named, output_file, output_folder
from kvsim.cli.plan import add_plan
from kvsim.cli.policy import add_policy
from kvsim.cli.report import add_report
from kvsim.cli.search import add_search
from kvsim.cli.serving import add_serving
from kvsim.cli.terminal import bar, command_text, exit_code, need_torch
from kvsim.cli.timeline import add_timeline

if TYPE_CHECKING:
    from kvsim.report.html.page import Page

app = typer.Typer(
    name="kvsim",
    help="What a KV cache that does not fit costs: simulated and measured with the same policies.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
profile_app = typer.Typer(help="Look at what calibrate measured.", rich_markup_mode=None)
trace_app = typer.Typer(help="Look at recorded accesses, and fit a generator to them.", rich_markup_mode=None)
app.add_typer(profile_app, name="profile")
app.add_typer(trace_app, name="trace")


class Device(StrEnum):
    """Where torch runs."""

    cpu = "cpu"
    cuda = "cuda"


class DTypeName(StrEnum):
    """Numbers of weights and cache."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class QuantisationName(StrEnum):
    """How weights are packed."""

    eight = "8bit"
    four = "4bit"


class EngineName(StrEnum):
    """What runs the model."""

    kvsim = "kvsim"
    vllm = "vllm"


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field; a list sweeps it. Repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print summary.json instead of the table.")]
Pictures = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", parser=named, help="Folder for the picture.")]
Figures = Annotated[bool, typer.Option("--figures/--no-figures", help="Draw pictures.")]
PageTokens = Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of a page.")]


def main() -> None:
    """Run the command line and exit with its code. Plug-ins are found in the current folder too."""
    sys.path.append(str(Path.cwd()))
    sys.exit(run_command(sys.argv[1:]))


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
    scenario: Annotated[str, typer.Argument(help="A scenario file, or the name of a shipped one.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Replay what a measured result in DIR recorded.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", parser=named, help="Folder for results, instead of the scenario's."
        ),
    ] = None,
    figures: Figures = True,
) -> None:
    """Simulate a scenario; print its table and verdict, and keep rows, summary, pictures and a report in a folder."""
    from kvsim.experiments.registry import load_scenario
    from kvsim.scenario.shipped import find_scenario

    loaded = load_scenario(find_scenario(scenario), overrides or ())  # reports its errors before the slow imports
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
    written = kept(lambda: write_result(result, folder, drawn), text)
    typer.echo(text, nl=not as_json)
    if not as_json:
        typer.echo("\n".join([f"\nresult: {written}", *(f"  {written / picture}" for picture in sorted(drawn))]))


@app.command()
def show(result: Annotated[Path, typer.Argument(help="A result folder.")], as_json: AsJson = False) -> None:
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
    file: Annotated[str, typer.Argument(help="A scenario file, or the name of a shipped one.")],
    overrides: Overrides = None,
) -> None:
    """Validate a scenario, the files it names and its budgets, without running it."""
    from kvsim.experiments.registry import load_experiment, load_scenario
    from kvsim.scenario.shipped import find_scenario

    path = find_scenario(file)
    loaded = load_scenario(path, overrides or ())
    experiment = load_experiment(loaded.experiment)
    num_cells = experiment.check(loaded.scenario, path.parent)
    for line in experiment.warnings(loaded.scenario, path.parent):
        typer.echo(line)
    typer.echo(f"{path}: fine, {num_cells} cells")


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


@app.command()
def capture(
    model: Annotated[str, typer.Option(metavar="PATH_OR_ID", help="Model folder, GGUF file, or hub id.")],
    text: Annotated[Path, typer.Option(metavar="FILE", help="The text that the model reads, UTF-8.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", parser=named, help="The trace to write, *.kvtrace.")
    ],
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


@app.command()
def calibrate(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", parser=named, help="The profile to write, *.toml.")
    ],
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
    kept(lambda: write_profile(profile, output), profile_text(profile))
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
        _draw(profile_figure(profile), page, output, f"profile-{profile.name}")


@trace_app.command("info")
def trace_info(
    file: Annotated[str, typer.Argument(help="A trace, or the name of a shipped capture.")],
    page_tokens: PageTokens = 32,
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
        _draw(trace_figure(statistics, path.stem), page, output, f"trace-{path.stem}")


@trace_app.command("fit")
def trace_fit(
    file: Annotated[str, typer.Argument(help="A trace, or the name of a shipped capture.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", parser=named, help="The parameters to write, *.toml.")
    ],
    page_tokens: PageTokens = 32,
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
    kept(lambda: write_parameters(parameters, output), text)
    typer.echo(f"{text}\n\n{output}: written")


def _draw(figure: Any, page: Page, folder: Path, name: str) -> None:
    from kvsim.report.html.page import page_html
    from kvsim.report.results import write_picture
    from kvsim.report.style import png

    typer.echo(f"\npicture: {write_picture(png(figure), folder, f'{name}.png')}")
    typer.echo(f"report: {write_picture(page_html(page), folder, f'{name}.html')}")


add_commands(app)
add_timeline(app)
add_serving(app)
add_search(app)
add_report(app)
add_policy(app)
add_caches(app)
add_plan(app)
add_model(app)
add_card(app)
