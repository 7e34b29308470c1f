"""What the experiment adds to the page of a result."""

from kvsim.experiments.embedding_rows.report import COLUMNS, COMPARED, LEGEND, series_name
from kvsim.report.html.parts import Parts, charts_of
from kvsim.report.results import RunResult

_FIGURES = {
    "row_hit_frac": "share of the rows hit",
    "prompt_embed_mean_s": "time until a prompt's rows are there, mean",
    "prompt_mean_s": "time to first token, mean",
    "tokens_per_s": "tokens per second",
}


def parts(result: RunResult) -> Parts:
    """Return hit rate, times and throughput over the rows that the device holds."""
    return Parts(
        columns=COLUMNS,
        keys=COMPARED.keys,
        figures=COMPARED.figures,
        charts=charts_of(
            result.summary["cells"],
            _FIGURES,
            keys=result.summary["swept"],
            over="budget_rows",
            over_title="budget, rows",
            series=series_name,
        ),
        legend=LEGEND,
    )
