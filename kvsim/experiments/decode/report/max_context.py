"""The longest contexts as a table: how long, what they took, and what ran out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Required, TypeAlias, TypedDict

from kvsim.report.tables import aligned
from kvsim.units import format_bytes

Outcome: TypeAlias = Literal["budget", "device memory", "host memory", "positions"]


class Trial(TypedDict, total=False):
    """What the longest context took; what was not found is not there."""

    host_bytes: int
    device_bytes: int
    was_run: Required[bool]
    """Whether it was decoded to."""
    model_positions: int | None
    """Tokens that the model was made to read."""
    weights_bytes: int
    slots_bytes: int
    summary_bytes: int
    working_bytes: int


class Record(Trial):
    """The longest context of a cell; the swept fields stand in it too, by their dotted names."""

    policy: str
    batch: int
    page_tokens: int
    max_context_tokens: int | None
    """None where no length works."""
    ran_out: Outcome
    found_by: Literal["trial", "bytes"]
    device_limit_bytes: int
    host_free_bytes: int
    """Before any model was loaded."""


def max_context_text(records: Sequence[Record]) -> str:
    """Return the table and what to know of it."""
    swept = list(dict.fromkeys(name for record in records for name in record if name not in Record.__annotations__))
    head = ["policy", *(name.rpartition(".")[2] for name in swept), "tokens", "device", "host", "ran out"]
    rows = [head, *(_cells(record, swept) for record in records)]
    return "\n".join([*aligned(rows), "", *_notes(records)])


def _cells(record: Record, swept: Sequence[str]) -> list[str]:
    tokens = record["max_context_tokens"]
    sizes = (record.get("device_bytes"), record.get("host_bytes"))
    return [
        record["policy"],
        *(str(record.get(name, "-")) for name in swept),
        "none" if tokens is None else f"{tokens:,}",
        *("-" if size is None else format_bytes(size) for size in sizes),
        record["ran_out"],
    ]


def _notes(records: Sequence[Record]) -> list[str]:
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
    positions = min((known for record in records if (known := record.get("model_positions"))), default=None)
    if positions is not None and any((record["max_context_tokens"] or 0) > positions for record in records):
        lines.append(f"The model was made to read {positions:,} tokens: beyond, this says what memory holds, no more.")
    lines.append("Keys and values are random and nothing is prefilled: a prompt's own prefill may take more.")
    return lines
