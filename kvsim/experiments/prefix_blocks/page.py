"""What the experiment adds to the page of a result."""

from kvsim.experiments.prefix_blocks.report import COLUMNS, COMPARED, LEGEND, series_name
from kvsim.report.html.parts import Parts, charts_of
from kvsim.report.results import RunResult

_FIGURES = {
    "block_hit_frac": "share of the blocks hit",
    "ttft_mean_s": "time to first token, mean",
    "ttft_saved_frac": "time to first token saved",
}


def parts(result: RunResult) -> Parts:
    """Return hit rate and time to first token over the budget; a cell without a limit holds every block."""
    cells = result.summary["cells"]
    held = [cell | {"held_blocks": cell["budget_blocks"] or cell["distinct_blocks"]} for cell in cells]
    charts = charts_of(
        held,
        _FIGURES,
        keys=result.summary["swept"],
        over="held_blocks",
        over_title="budget, blocks",
        series=series_name,
    )
    return Parts(
        columns=COLUMNS,
        keys=("policy", "admission", "index", "budget_blocks"),
        figures=("block_hit_frac", *COMPARED.figures[:1]),
        charts=charts,
        legend=LEGEND,
        limitations=("One request at a time: no queue, no batch, and no transfer of blocks.",),
    )
