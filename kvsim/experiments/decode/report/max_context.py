"""The longest contexts as a table: how long, what they took, and what ran out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvsim.report.tables import aligned
from kvsim.units import format_bytes

_KNOWN = frozenset(
    ("policy", "batch", "page_tokens", "max_context_tokens", "ran_out", "found_by", "device_limit_bytes")
    + ("host_free_bytes", "was_run", "host_bytes", "device_bytes", "model_positions")
    + ("weights_bytes", "slots_bytes", "summary_bytes", "working_bytes")
)


def max_context_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the table and what to know of it."""
    swept = list(dict.fromkeys(name for record in records for name in record if name not in _KNOWN))
    head = ["policy", *(name.rpartition(".")[2] for name in swept), "tokens", "device", "host", "ran out"]
    rows = [head, *(_cells(record, swept) for record in records)]
    return "\n".join([*aligned(rows), "", *_notes(records)])


def _cells(record: Mapping[str, Any], swept: Sequence[str]) -> list[str]:
    tokens = record["max_context_tokens"]
    sizes = ["-" if record.get(name) is None else format_bytes(record[name]) for name in ("device_bytes", "host_bytes")]
    return [
        str(record["policy"]),
        *(str(record.get(name, "-")) for name in swept),
        "none" if tokens is None else f"{tokens:,}",
        *sizes,
        str(record["ran_out"]),
    ]


def _notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    limits = " or ".join(dict.fromkeys(format_bytes(record["device_limit_bytes"]) for record in records))
    free = format_bytes(min(record["host_free_bytes"] for record in records))
    lines = [f"Device memory: {limits}. Free in the host at the start: {free}, nine tenths of which may be taken."]
    if any(record["found_by"] == "bytes" for record in records):
        done = sum(bool(record["was_run"]) for record in records)
        num_known = sum(record["max_context_tokens"] is not None for record in records)
        lines.append(
            "The device is emulated in host memory: lengths are found by the engine's own sizes, device memory as the "
            f"profile states it; {done} of {num_known} were then decoded to."
        )
    else:
        lines.append("Every length was tried: torch ran out of device memory at 1% more, or host memory would have.")
    positions = min((record["model_positions"] for record in records if record.get("model_positions")), default=None)
    if positions is not None and any((record["max_context_tokens"] or 0) > positions for record in records):
        lines.append(f"The model was made to read {positions:,} tokens: beyond, this says what memory holds, no more.")
    lines.append("Keys and values are random and nothing is prefilled: a prompt's own prefill may take more.")
    return lines
