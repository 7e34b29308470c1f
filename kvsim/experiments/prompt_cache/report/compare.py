"""A prompt cache simulated beside measured."""

from __future__ import annotations

from dataclasses import replace

from kvsim.experiments.prompt_cache.report.break_even import break_evens_beside
from kvsim.experiments.prompt_cache.report.figures import prompt_figure
from kvsim.experiments.prompt_cache.report.tables import COLUMNS, break_evens_text
from kvsim.report.comparison import PROCESSOR_NOTE, Compared, Comparison, Fields
from kvsim.report.results import RunResult
from kvsim.report.style import png

COMPARED = Fields(
    keys=("tier", "policy", "shared_tokens", "budget_bytes", "link_bytes_per_s"),
    figures=("ttft_mean_s", "ttft_hit_s", "ttft_hit_full_s", "keep_mean_s"),
    counts=("hits", "reused_tokens", "host_hits", "evicted", "demoted", "kept_bytes"),
    columns=COLUMNS,
    digests={"prompts_digest": "prompts"},
)


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare what was reused and what left, which must be equal, times to first token, and the break-evens."""
    comparison = Comparison(simulated, measured, COMPARED)
    what = "what every prompt reused, from where, and what left"
    comparison.rows_equal("requests_equal", what, "reused_tokens", "from_host", "left")
    comparison.errors("request_ttft", comparison.row_errors("ttft_s"), "time to first token of a prompt")
    errors = comparison.row_errors("ttft_s", "busy_s")
    comparison.errors("request_busy", errors, "  against its time on the link and the processor", PROCESSOR_NOTE)
    comparison.answers("prompts")
    crossings = break_evens_beside(simulated.summary["break_evens"], measured.summary["break_evens"])
    comparison.contents["break_evens"] = crossings
    if crossings:
        comparison.lines += ["", break_evens_text(crossings)]
    done = comparison.compared(by="tier")
    overlaid = png(prompt_figure(measured.summary, simulated.summary))
    return replace(done, files={"prompt_cache_compared.png": overlaid, **done.files})
