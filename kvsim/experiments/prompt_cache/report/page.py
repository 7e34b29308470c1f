"""What the experiment adds to the page of a result."""

from collections.abc import Mapping
from typing import Any

from kvsim.experiments.prompt_cache.report.compare import COMPARED
from kvsim.experiments.prompt_cache.report.figures import group_name
from kvsim.experiments.prompt_cache.report.tables import COLUMNS, LEGEND
from kvsim.report.html.parts import Parts, charts_of
from kvsim.report.html.tables import Table, own_columns
from kvsim.report.results import RunResult

_OVER_LENGTH = {
    "ttft_hit_s": "time to first token of a hit",
    "speedup": "times as fast as without the cache",
    "restore_hit_s": "time to load what a hit reuses",
}
_OVER_BUDGET = {"reused_frac": "share of the tokens reused", "ttft_mean_s": "time to first token, mean"}


def parts(result: RunResult) -> Parts:
    """Return times over what prompts share, or over the budget where that does not vary, and the break-evens."""
    cells = result.summary["cells"]
    lengths = {cell["shared_tokens"] for cell in cells}
    if len(lengths) > 1 and None not in lengths:
        charts = charts_of(cells, _OVER_LENGTH, keys=result.summary["swept"], over="shared_tokens", series=_series)
    else:
        held = [cell | {"held_bytes": cell["budget_bytes"] or cell["kept_bytes"]} for cell in cells]
        charts = charts_of(
            held, _OVER_BUDGET, keys=result.summary["swept"], over="held_bytes", over_title="budget", series=_series
        )
    crossings = [
        {name: value for name, value in entry.items() if not isinstance(value, list | dict)}
        for entry in result.summary["break_evens"]
    ]
    first = ("tier", "policy", "link_bytes_per_s", "verdict", "from_tokens")
    return Parts(
        columns=COLUMNS,
        keys=COMPARED.keys,
        figures=COMPARED.figures[:3],
        charts=charts,
        legend=LEGEND,
        tables=[Table(title="Break-evens", rows=crossings, columns=own_columns(crossings, first))],
    )


def _series(cell: Mapping[str, Any]) -> str:
    return group_name((cell["tier"], cell["policy"], None, cell["link_bytes_per_s"]))
