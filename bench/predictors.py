"""Compares prefetchers at equal budget and equal bytes: what they predict, avoid and save.

    python bench/predictors.py -o results      # under four minutes on one core; docs/predictors.md

Captures and predictors are shared out to all cores (``LOKY_MAX_CPU_COUNT=1`` for one).
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from predictors_parts.compare import Comparison, compare_predictors, parse_budget, result_of
from predictors_parts.report import predictors_figure, predictors_text, predictors_verdict

from kvsim.cli.terminal import bar
from kvsim.errors import KvsimError
from kvsim.report.results import summary_json, write_result
from kvsim.report.style import png


def main(words: Sequence[str]) -> int:
    """Print the table, or ``summary.json``; write both and a picture where a folder is named."""
    arguments = _arguments(words)
    try:
        comparison = _comparison(arguments)
        with bar("comparing predictors") as shown:
            records = compare_predictors(comparison, shown.advance)
    except KvsimError as error:
        print(error, file=sys.stderr)
        return 2
    command = shlex.join(["python", "bench/predictors.py", *words])
    result = result_of(comparison, records, verdict=predictors_verdict(records), command=command)
    if arguments.json:
        print(summary_json(result.summary), end="")
    else:
        print("\n".join([predictors_text(records), "", *result.summary["verdict"]]))
    if arguments.output is not None:
        table = predictors_text(records, markdown=True) + "\n"
        files = {"predictors.png": png(predictors_figure(records)), "table.md": table.encode()}
        print(f"result: {write_result(result, arguments.output, files)}", file=sys.stderr if arguments.json else None)
    return 0


def _comparison(arguments: argparse.Namespace) -> Comparison:
    changes = {
        "captures": tuple(arguments.capture or ()),
        "profiles": tuple(arguments.profile or ()),
        "budgets": tuple(parse_budget(text) for text in arguments.budget or ()),
    }
    stated = {name: value for name, value in changes.items() if value}
    return dataclasses.replace(Comparison(), k_pages=arguments.k_pages, **stated)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capture", action="append", help="an access trace, or a shipped one; repeatable, all three")
    parser.add_argument("--profile", action="append", help="what things cost: a file, or a shipped one; repeatable")
    parser.add_argument("--k-pages", type=int, default=8, metavar="K", help="pages that attention reads in a layer")
    parser.add_argument(
        "--budget",
        action="append",
        metavar="PAGES:MOVED",
        help="pages a layer, and bytes to move in multiples of those of no prefetching; repeatable",
    )
    parser.add_argument("--output", "-o", type=Path, metavar="DIR", help="write the result there, with a picture")
    parser.add_argument("--json", action="store_true", help="print summary.json instead of the table")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
