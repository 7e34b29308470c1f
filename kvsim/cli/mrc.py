"""The command about caches without time: `kvsim mrc`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvsim.cli.choices import Pictures, json_option, set_option
from kvsim.cli.outputs import output_folder, write_or_print


def mrc(
    file: Annotated[
        str,
        typer.Argument(
            help="A shipped capture or request trace by name, or a file: an access trace, requests, or keys."
        ),
    ],
    overrides: Annotated[
        list[str] | None, set_option("page_tokens, selector.k_pages, format, block_tokens... Repeatable.")
    ] = None,
    output: Pictures = Path("results"),
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw the picture.")] = True,
    as_json: Annotated[bool, json_option("Print JSON instead of the table, and no picture.")] = False,
) -> None:
    """Print the exact miss ratio of LRU at every budget, from one pass over a trace, and where its knee is."""
    from kvsim.experiments.decode.miss_curve import (
        curve_of,
        find_accesses,
        parse_settings,
        shown_budgets,
        summary_of,
    )
    from kvsim.report.results import summary_json, write_picture

    settings = parse_settings(overrides or ())
    path = find_accesses(file)
    if figures and not as_json:
        output_folder(output)
    curve, keys = curve_of(path, settings)
    if as_json:
        typer.echo(summary_json(summary_of(curve, str(path), keys)), nl=False)
        return
    from kvsim.report.mrc import mrc_figure, mrc_text

    text = f"{path}\n{mrc_text(curve, shown_budgets(curve, 16), keys)}"
    if figures:
        from kvsim.report.style import png

        name = path.name.partition(".")[0]
        drawn = png(mrc_figure(curve, path.name, keys))
        picture = write_or_print(lambda: write_picture(drawn, output, f"mrc-{name}.png"), text)
        text += f"\n\npicture: {picture}"
    typer.echo(text)
