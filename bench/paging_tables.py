"""Compares paging with keeping every page on the device, in the tables of a published prefetching experiment.

    python bench/paging_tables.py results/kv_prefetch/RUN

The folder is a result of `kvsim measure kv_prefetch`; docs/kv-prefetch.md shows the tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from paging_tables_parts.modes import experiment_of, experiment_summary
from paging_tables_parts.tables import experiment_figure, experiment_text

from kvsim.errors import KvsimError
from kvsim.report.results import load_result, summary_json, write_picture
from kvsim.report.style import png


def main(words: Sequence[str]) -> int:
    """Print the tables, or the JSON; write JSON and picture to the result's folder, or another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="the folder that `kvsim measure` or `kvsim run` wrote")
    parser.add_argument("--output", "-o", type=Path, metavar="DIR", help="where to write, instead of that folder")
    parser.add_argument("--json", action="store_true", help="print experiment_summary.json instead of the tables")
    arguments = parser.parse_args(words)
    try:
        experiment = experiment_of(load_result(arguments.result))
        contents = summary_json(experiment_summary(experiment))
        folder = arguments.output or arguments.result
        written = write_picture(contents.encode(), folder, "experiment_summary.json")
        picture = write_picture(png(experiment_figure(experiment)), folder, "kv_cache_comparison.png")
    except KvsimError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.json:
        print(contents, end="")
    else:
        print(f"{experiment_text(experiment)}\n\nsummary: {written}\npicture: {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
