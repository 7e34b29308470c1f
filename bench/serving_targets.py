"""Print the targets of the cross-check with vLLM as the table of docs/serving.md.

python bench/serving_targets.py [FOLDER]

FOLDER holds the ``compare.json`` of ``kvsim crosscheck serving_vllm_cpu``; absent, that of the committed run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvsim.report.tables import signed_percent

COMMITTED = Path(__file__).parents[1] / "results" / "serving_vllm_cpu" / "simulated"

_NAMES = {
    "ttft_mean_s": "TTFT mean",
    "ttft_p50_s": "TTFT p50",
    "ttft_p99_s": "TTFT p99",
    "itl_p50_s": "ITL p50",
    "tpot_p50_s": "TPOT p50",
    "e2e_p50_s": "E2E p50",
    "output_tokens_per_s": "output throughput",
}


def table_text(compared: Mapping[str, Any]) -> str:
    """Return a row of schedules, and one for each figure, a column for each rate."""
    rates = [cell["arrivals.rate_hz"] for cell in compared["cells"]]
    lines = [_row(["target", *(f"{rate:.1f}/s" for rate in rates)]), _row(["---"] * (len(rates) + 1))]
    schedules = compared["schedules"]
    steps, equal = (sum(one["steps"] for one in some) for some in (schedules, _equal(schedules)))
    text = f"schedules equal in all steps: {equal:,} of {steps:,} steps of {len(schedules)} runs, evictions included"
    lines.append(_row([text, *(["met" if equal == steps else "**missed**"] * len(rates))]))
    for figure, name in _NAMES.items():
        rows = sorted((row for row in compared["figures"] if row["figure"] == figure), key=lambda row: row["cell"])
        also = ", or within the engine's own runs" if figure == "ttft_p99_s" else ""
        lines.append(_row([f"{name} within {100 * rows[0]['target_frac']:.0f}%{also}", *map(_error, rows)]))
    return "\n".join(lines)


def summary_text(compared: Mapping[str, Any]) -> str:
    """Return what the table does not say."""
    best, factor = min(compared["null_factor"].items(), key=lambda item: item[1])
    return (
        f"{compared['targets_met']} of {len(compared['figures'])} figures meet their targets; "
        f"{100 * compared['interval_coverage_frac']:.0f}% of all figures lie in their intervals; "
        f"the best null ({best}) is {factor:.1f} times as far off"
    )


def _equal(schedules: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [one for one in schedules if not one["difference"]]


def _error(row: Mapping[str, Any]) -> str:
    text = signed_percent(row["error_frac"])
    if row["is_met"]:
        return text
    is_inside = min(row["runs"]) <= row["simulated"] <= max(row["runs"])
    return f"**{text}**" + (" (within the engine's own runs)" if is_inside else "")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else COMMITTED
    contents = json.loads((folder / "compare.json").read_text())
    print(table_text(contents), summary_text(contents), sep="\n\n")
