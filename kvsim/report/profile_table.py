"""What `kvsim profile show` prints: every fitted cost with its residuals and measured range."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from kvsim.profile.profile import Profile
from kvsim.profile.tables import Column, CostTable
from kvsim.units import format_bytes, format_seconds

_TITLES = ("cost", "range", "time", "90% of samples", "median +-", "samples")
COLUMN_WORDS: dict[Column, str] = {"sequences": "batch", "cached_tokens": "after", "grid_pages": "of all pages,"}
"""What stands before the number of a column."""

_FOOT = (
    "time: from the least to the most that was measured. 90% of samples: how far single samples lie from the table. "
    "median +-: relative standard error of the table's own medians."
)


def profile_text(profile: Profile, *, width: int = 120) -> str:
    """Return the costs of `profile` as plain text; of a published one, the source of every number too."""
    rows = [_TITLES, *(_row(name, table) for name, table in profile.tables().items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    lines = ["  ".join(text.ljust(size) for text, size in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * size for size in widths))
    parts = [
        *textwrap.wrap(_caption(profile), width),
        "",
        *lines,
        "",
        *textwrap.wrap(_FOOT, width),
        "",
        *_scalars(profile),
    ]
    if profile.kind == "published":
        sources = {name: table.source for name, table in profile.tables().items()} | dict(profile.sources)
        parts += ["", "sources"]
        parts += [line for name, source in sources.items() for line in _wrapped(f"  {name}: {source}", width)]
    return "\n".join(parts)


def _caption(profile: Profile) -> str:
    shape = profile.shape
    link = "emulated link" if profile.link.emulated else f"link by {profile.link.to_device.mechanism}"
    return (
        f"{profile.name}: {profile.kind} on {profile.machine.device} ({profile.runtime}, {link}), "
        f"{shape.num_layers} layers of {shape.hidden_size} with {shape.num_kv_heads} KV heads of {shape.head_dim}, "
        f"{shape.dtype}; {profile.machine.date}"
    )


def _scalars(profile: Profile) -> list[str]:
    link = profile.link
    values = {
        "device memory": format_bytes(profile.device_memory_bytes),
        "one synchronisation": format_seconds(profile.sync_s),
        "handing over a transfer": f"{format_seconds(link.to_device.submit_s)} to the device, "
        f"{format_seconds(link.to_host.submit_s)} to the host",
        "both directions at once": f"a transfer takes {100 * link.both_ways_slowdown_frac:.1f}% longer",
        "compute beside a transfer": f"takes {100 * link.compute_slowdown_frac:.1f}% longer",
    }
    if link.stated_bandwidth_bytes_per_s is not None:
        values["bandwidth that the link is held to"] = f"{link.stated_bandwidth_bytes_per_s / 1e9:g} GB/s"
    return [f"{name}: {value}" for name, value in values.items()]


def _row(name: str, table: CostTable) -> tuple[str, ...]:
    times_s = [time_s for row in table.time_s for time_s in row]
    is_flat = min(times_s) == max(times_s)
    time = (
        format_seconds(times_s[0]) if is_flat else f"{format_seconds(min(times_s))} .. {format_seconds(max(times_s))}"
    )
    measured = _range(table)
    if not table.num_samples:
        return name, measured, time, "-", "-", "-"
    interval = f"{100 * table.residual_low_frac:+.0f}% .. {100 * table.residual_high_frac:+.0f}%"
    return name, measured, time, interval, f"{100 * table.median_error_frac:.1f}%", str(table.num_samples)


def _range(table: CostTable) -> str:
    """Return between which amounts and columns the table was measured."""
    parts = []
    if table.amount != "none":
        parts.append(f"{_span([f'{amount:,.0f}' for amount in table.amounts])} {table.amount}")
    if table.columns_are in ("piece_bytes", "row_bytes"):
        parts.append(f"of {_span([format_bytes(size) for size in table.columns])}")
    elif len(table.columns) > 1:
        parts.append(f"{COLUMN_WORDS[table.columns_are]} {_span([f'{column:.0f}' for column in table.columns])}")
    return " ".join(parts) or "-"


def _span(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{values[0]} .. {values[-1]}"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="    ", initial_indent="")
