"""Simulated serving compared with measured serving, cell by cell."""

from __future__ import annotations

from kvsim.experiments.serving.report.tables import COLUMNS
from kvsim.experiments.types import Compared
from kvsim.report.pairs import pair_cells, pairs_csv, pairs_figure, pairs_text
from kvsim.report.results import RunResult, summary_json
from kvsim.report.style import png

FIGURES = ("ttft_mean_s", "ttft_p50_s", "ttft_p99_s", "itl_p50_s", "tpot_p50_s", "e2e_p50_s", "output_tokens_per_s")
COUNTS = ("num_requests", "prompt_tokens", "output_tokens")


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare requests, which must be the same ones, and their latency and throughput."""
    keys = tuple(simulated.summary["swept"])
    pairs = pair_cells(simulated, measured, keys=keys, figures=FIGURES, counts=COUNTS)
    contents = pairs.summary()
    return Compared(
        contents=contents,
        text=pairs_text(pairs, COLUMNS),
        files={
            "compare.png": png(pairs_figure(pairs, by=keys[0] if keys else "cell")),
            "compare.csv": pairs_csv(pairs).encode(),
            "compare.json": summary_json(contents).encode(),
        },
    )
