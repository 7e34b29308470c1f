"""The table of serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvsim.report.pairs import cells_text
from kvsim.report.tables import Column, digits, percent
from kvsim.units import format_seconds

COLUMNS: dict[str, Column] = {
    "offered_hz": Column(title="offered/sessions/s", text=digits),
    "requests_hz": Column(title="served/requests/s", text=digits),
    "output_tokens_per_s": Column(title="output/tokens/s", text=lambda value: f"{value:,.0f}"),
    "goodput_hz": Column(title="goodput/requests/s", text=digits),
    "met_frac": Column(title="SLO/met", text=percent),
    "queue_p50_s": Column(title="queue/p50", text=format_seconds),
    "ttft_p50_s": Column(title="TTFT/p50", text=format_seconds),
    "ttft_p99_s": Column(title="TTFT/p99", text=format_seconds),
    "tpot_p50_s": Column(title="TPOT/p50", text=format_seconds),
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

LEGEND = (
    "TTFT, TPOT, E2E: time to first token, per output token, to the last token, of a request. ITL: between two tokens, "
    "all\nrequests together. Hits: share of prompt tokens that the prefix cache had. All quantiles are in summary.json."
)


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells and the verdict."""
    profile = summary["profile"]
    how = "measured" if summary.get("is_measured") else f"costs of {profile['name']} ({profile['kind']})"
    cells = summary["cells"]
    columns = {name: Column(title=f"/{name.rpartition('.')[2]}", text=str) for name in summary["swept"]}
    shown = {name: column for name, column in COLUMNS.items() if any(cell.get(name) is not None for cell in cells)}
    size = f"{cells[0]['num_requests']:,} requests, {cells[0]['num_blocks']:,} blocks"
    table = cells_text(cells, columns | shown)
    head = f"{summary['scenario']}: {how}; {size}"
    return "\n\n".join([head, f"{table}\n{LEGEND}", "\n".join(summary["verdict"])])
