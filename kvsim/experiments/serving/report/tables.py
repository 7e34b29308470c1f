"""The table of serving."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kvsim.report.tables import Column, digits, percent, result_text, table_text
from kvsim.units import format_bytes, format_seconds

COLUMNS: dict[str, Column] = {
    "offered_hz": Column(title="offered/sessions/s", text=digits),
    "requests_hz": Column(title="served/requests/s", text=digits),
    "output_tokens_per_s": Column(title="output/tokens/s", text=lambda value: f"{value:,.0f}"),
    "goodput_hz": Column(title="goodput/requests/s", text=digits),
    "met_frac": Column(title="SLO/met", text=percent),
    "queue_p50_s": Column(title="queue/p50", text=format_seconds),
    "ttft_mean_s": Column(title="TTFT/mean", text=format_seconds),
    "ttft_p50_s": Column(title="TTFT/p50", text=format_seconds),
    "ttft_p99_s": Column(title="TTFT/p99", text=format_seconds),
    "tpot_p50_s": Column(title="TPOT/p50", text=format_seconds),
    "itl_p50_s": Column(title="ITL/p50", text=format_seconds),
    "itl_p99_s": Column(title="ITL/p99", text=format_seconds),
    "e2e_p50_s": Column(title="E2E/p50", text=format_seconds),
    "e2e_p99_s": Column(title="E2E/p99", text=format_seconds),
    "hit_frac": Column(title="prefix/hits", text=percent),
    "device_hit_frac": Column(title="device/hits", text=percent),
    "loaded_frac": Column(title="tier/hits", text=percent),
    "load_busy_frac": Column(title="loads/busy", text=percent),
    "preemptions": Column(title="preemp-/tions", text=lambda value: f"{value:,}"),
    "running_mean": Column(title="running/mean", text=digits),
    "kv_used_mean_frac": Column(title="KV used/mean", text=percent),
}

_COMPARED_ONLY = ("ttft_mean_s", "itl_p50_s")
"""Left out of the table of one result, which is wide enough."""

LEGEND = (
    "TTFT, TPOT, E2E: time to first token, per output token, to the last token, of a request. ITL: between two tokens, "
    "all\nrequests together. Hits: share of prompt tokens that the prefix cache had. All quantiles are in summary.json."
)


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells and the verdict."""
    cells = summary["cells"]
    swept = {name: Column(title=f"/{name.rpartition('.')[2]}", text=text_of(name)) for name in summary["swept"]}
    shown = {name: column for name, column in COLUMNS.items() if _is_shown(name, cells)}
    size = f"{cells[0]['num_requests']:,} requests, {cells[0]['num_blocks']:,} blocks"
    readings = [f"trace: {reading}" for reading in summary.get("trace_reading", [])]
    table = f"{table_text(cells, swept | shown, left=())}\n{LEGEND}"
    return result_text(summary, "\n".join([size, *readings]), table)


def text_of(field: str) -> Callable[[Any], str]:
    """Return how the values of a field of the scenario are shown."""
    return format_bytes if field.endswith("_memory") else str


def _is_shown(name: str, cells: Sequence[Mapping[str, Any]]) -> bool:
    return name not in _COMPARED_ONLY and any(cell.get(name) is not None for cell in cells)
