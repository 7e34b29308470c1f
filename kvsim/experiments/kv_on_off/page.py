"""What the experiment adds to the page of a result."""

from collections.abc import Callable

from kvsim.experiments.kv_on_off.cell import KvCell
from kvsim.experiments.kv_on_off.report import COLUMNS, COMPARED, GROWTH_COLUMNS, growth_rows
from kvsim.report.html.parts import Parts, charts_of
from kvsim.report.html.tables import Table
from kvsim.report.results import RunResult

_OVER_PROMPT = {
    "latency_s": "latency",
    "first_token_s": "time to first token",
    "peak_bytes": "memory over the weights, at most",
}


def parts(result: RunResult) -> Parts:
    """Return latency and memory over the prompt, tokens per second over the batch, and how they grow."""
    cells = result.summary["cells"]
    charts = charts_of(
        cells,
        _OVER_PROMPT,
        keys=result.summary["swept"],
        over="prompt_tokens",
        series=_series("batch {batch}"),
    )
    charts += charts_of(
        cells,
        {"tokens_per_s": "tokens per second"},
        keys=result.summary["swept"],
        over="batch",
        series=_series("prompt of {prompt_tokens}"),
    )
    return Parts(
        columns=COLUMNS,
        keys=COMPARED.keys,
        figures=COMPARED.figures,
        charts=charts,
        tables=[Table(title="Growth", rows=growth_rows(result.summary["growth"]), columns=GROWTH_COLUMNS)],
    )


def _series(words: str) -> Callable[[KvCell], str]:
    """Return what a line is called: whether there is a cache, and fields of its cells in words."""
    return lambda cell: f"cache {'on' if cell['use_cache'] else 'off'}, {words.format(**cell)}"
