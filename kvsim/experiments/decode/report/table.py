"""The table and the verdict of decode's cells."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kvsim.report.tables import Column, cell_text, costs_text, digits, percent, scaled, table_line
from kvsim.units import format_bytes

COLUMNS: dict[str, Column] = {
    "budget_pages": Column(title="budget/pages", text=lambda value: f"{value:.0f}"),
    "tpot_p50_s": Column(title="TPOT ms/p50", text=scaled(1e-3)),
    "tpot_p95_s": Column(title="TPOT ms/p95", text=scaled(1e-3)),
    "tokens_per_s": Column(title="tokens/per s", text=digits),
    "speed_vs_resident": Column(title="speed/vs res.", text=lambda value: f"{value:.2f}x"),
    "stall_frac": Column(title="/stall", text=percent),
    "hit_frac": Column(title="/hits", text=percent),
    "prefetch_precision_frac": Column(title="prefetch/prec.", text=percent),
    "prefetch_recall_frac": Column(title="prefetch/recall", text=percent),
    "moved_bytes_per_token": Column(title="moved/MiB/tok", text=scaled(2**20)),
    "device_bytes": Column(title="device/GiB", text=scaled(2**30)),
    "fits": Column(title="/fits", text=lambda value: "yes" if value else "NO"),
    "mass_recall_frac": Column(title="mass/kept", text=percent),
}
"""The figures of the printed table, in order."""


LEGEND = (
    "TPOT: time per output token. stall: share of the time in which compute waits for pages. hits: share of selected "
    "pages that own a device slot. prefetch prec.: share of prefetched pages that were read before they left; recall: "
    "used / (used + missed). mass kept: attention mass of the pages that were read. -: does not apply."
)


def swept_keys(summary: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys under ``[sweep]``, in the scenario's order."""
    return [str(key) for key in summary.get("swept", ())]


def cells_frame(summary: Mapping[str, Any]) -> pd.DataFrame:
    """Return a row for each cell: what varies first, then the printed figures, then the others, units in the names.

    A figure that does not apply is NaN or None.
    """
    frame = pd.DataFrame(summary["cells"])
    first = dict.fromkeys(["policy", *swept_keys(summary), *COLUMNS])
    present = [name for name in first if name in frame]
    return frame[present + [name for name in frame if name not in first]]


def printed_frame(summary: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table as text, its columns titled as they are printed."""
    frame = cells_frame(summary)
    shown = {"/policy": frame["policy"].map(str)}
    shown |= {title: frame[key].map(str) for key, title in _short_titles(swept_keys(summary)).items()}
    for name, column in COLUMNS.items():
        if name in frame:
            shown[column.title] = pd.Series([cell_text(column, value) for value in frame[name]], index=frame.index)
    return pd.DataFrame(shown)


def text_table(summary: Mapping[str, Any], *, width: int = 120) -> str:
    """Return the table under what is the same for all its cells, and above a legend, in plain text.

    Cells of one combination of swept values stand together. The columns are as wide as they must be, whatever
    `width` says: at 120 a sweep of two fields fits.
    """
    frame = printed_frame(summary)
    num_keys = 1 + len(swept_keys(summary))
    titles = [title.partition("/") for title in map(str, frame.columns)]
    body = frame.to_numpy().tolist()
    table = [[upper for upper, _, _ in titles], [lower for _, _, lower in titles], *body]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles))]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= width else " "
    lines = [table_line(row, widths, gap) for row in table]
    lines.insert(2, gap.join("-" * size for size in widths))
    spaced = lines[:3]
    for number, line in enumerate(lines[3:]):
        if number and body[number][1:num_keys] != body[number - 1][1:num_keys]:
            spaced.append("")
        spaced.append(line)
    return "\n".join([*textwrap.wrap(_caption(summary), width), "", *spaced, "", *textwrap.wrap(LEGEND, width)])


def verdict_text(summary: Mapping[str, Any], *, width: int = 120) -> str:
    """Return the verdict in paragraphs of lines no longer than `width`, a blank line between."""
    return "\n\n".join(textwrap.fill(paragraph, width) for paragraph in summary["verdict"])


def _short_titles(keys: Sequence[str]) -> dict[str, str]:
    """Return the last part of each dotted key in two lines, or all of it where two share the last part."""
    last = {key: key.rsplit(".", 1)[-1] for key in keys}
    names = list(last.values())
    return {key: f"/{key}" if names.count(name) > 1 else _in_two_lines(name) for key, name in last.items()}


def _in_two_lines(name: str) -> str:
    first, _, rest = name.partition("_")
    return f"{first}/{rest.replace('_', ' ')}" if rest else f"/{first}"


def _caption(summary: Mapping[str, Any]) -> str:
    """Say what all cells share: scenario, profile with its label, and the sizes that are not swept."""
    profile = summary["profile"]
    link = ["emulated link"] if profile["emulated_link"] else []
    parts = [f"{summary['scenario']}: {costs_text(profile, *link)}"]
    for name, wording in (("context_tokens", "{:,} tokens"), ("batch", "batch {}"), ("page_tokens", "{}-token pages")):
        values = {cell[name] for cell in summary["cells"] if name in cell}
        if len(values) == 1:
            parts.append(wording.format(values.pop()))
    selectors = dict.fromkeys(cell["selector"] for cell in summary["cells"] if "selector" in cell)
    parts.append(f"selector {', '.join(selectors)}")
    if "device_memory_bytes" in summary:
        parts.append(f"{format_bytes(summary['device_memory_bytes'])} of device memory")
    return "; ".join(parts)
