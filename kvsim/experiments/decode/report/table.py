"""The table and the verdict of decode's cells."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from kvsim.report.tables import Column, digits, header_text, percent, scaled, table_text
from kvsim.units import format_bytes

COLUMNS: dict[str, Column] = {
    "budget_pages": Column(title="budget/pages", text="{:.0f}".format),
    "tpot_p50_s": Column(title="TPOT ms/p50", text=scaled(1e-3)),
    "tpot_p95_s": Column(title="TPOT ms/p95", text=scaled(1e-3)),
    "tokens_per_s": Column(title="tokens/per s", text=digits),
    "speed_vs_resident": Column(title="speed/vs res.", text="{:.2f}x".format),
    "stall_frac": Column(title="/stall", text=percent),
    "hit_frac": Column(title="/hits", text=percent),
    "prefetch_precision_frac": Column(title="pref./prec.", text=percent),
    "prefetch_recall_frac": Column(title="pref./recall", text=percent),
    "moved_bytes_per_token": Column(title="moved/MiB/tok", text=scaled(2**20)),
    "device_bytes": Column(title="device/GiB", text=scaled(2**30)),
    "host_bytes": Column(title="host/GiB", text=lambda value: scaled(2**30)(value) if value else "-"),
    "fits": Column(title="/fits", text=lambda value: "yes" if value else "NO"),
    "mass_recall_frac": Column(title="attn./recall", text=percent),
}
"""The figures of the printed table, in order."""


DEVICE_COLUMNS: dict[str, Column] = {
    "device": Column(title="/device"),
    "layers": Column(title="/layers"),
    "pages": Column(title="budget/pages", text="{:.0f}".format),
    "weights_bytes": Column(title="weights/GiB", text=scaled(2**30)),
    "kv_device_bytes": Column(title="KV/GiB", text=scaled(2**30)),
    "summary_bytes": Column(title="summaries/GiB", text=scaled(2**30)),
    "activation_bytes": Column(title="activations/GiB", text=scaled(2**30)),
    "device_bytes": Column(title="in all/GiB", text=scaled(2**30)),
    "fits": COLUMNS["fits"],
}
"""What each device holds, where layers lie on several."""


LEGEND = (
    "TPOT: time per output token. stall: share of the time in which compute waits for pages. hits: share of selected "
    "pages that own a device slot. pref. prec.: share of prefetched pages that were read before they left; recall: "
    "used / (used + missed). host: memory for the pages that are not on the device, pinned where that is a GPU. attn. "
    "recall: attention mass of the pages that were read. -: does not apply."
)


def swept_keys(summary: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys under ``[sweep]``, in the scenario's order."""
    return [str(key) for key in summary.get("swept", ())]


def first_columns(summary: Mapping[str, Any]) -> list[str]:
    """Return the columns of a data frame of the cells that come first: what varies, then the printed figures."""
    return ["policy", *swept_keys(summary), *COLUMNS]


def shown_columns(summary: Mapping[str, Any]) -> dict[str, Column]:
    """Return the columns of the printed table: the policy, what is swept, and the figures."""
    return _key_columns(summary) | COLUMNS


def _key_columns(summary: Mapping[str, Any]) -> dict[str, Column]:
    swept = {key: Column(title=title) for key, title in _short_titles(swept_keys(summary)).items()}
    return {"policy": Column(title="/policy"), **swept}


def text_table(summary: Mapping[str, Any], *, width: int = 120) -> str:
    """Return the table under what is the same for all its cells, and above a legend, in plain text.

    Cells of one combination of swept values stand together. The columns are as wide as they must be, whatever
    `width` says: at 120 a sweep of two fields fits.
    """
    table = table_text(summary["cells"], shown_columns(summary), apart_by=swept_keys(summary), width=width)
    parts = [*textwrap.wrap(_caption(summary), width), "", table, *_devices(summary, width)]
    return "\n".join([*parts, "", *textwrap.wrap(LEGEND, width)])


def _devices(summary: Mapping[str, Any], width: int) -> list[str]:
    """Return the memory of each device, where layers lie on several."""
    rows = [{**cell, **device} for cell in summary["cells"] for device in cell.get("devices", ())]
    if not rows:
        return []
    return ["", table_text(rows, _key_columns(summary) | DEVICE_COLUMNS, apart_by=swept_keys(summary), width=width)]


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
    link = ["emulated link"] if summary["profile"]["emulated_link"] else []
    parts = [header_text(summary, *link)]
    for name, wording in (("context_tokens", "{:,} tokens"), ("batch", "batch {}"), ("page_tokens", "{}-token pages")):
        values = {cell[name] for cell in summary["cells"] if name in cell}
        if len(values) == 1:
            parts.append(wording.format(values.pop()))
    selectors = dict.fromkeys(cell["selector"] for cell in summary["cells"] if "selector" in cell)
    parts.append(f"selector {', '.join(selectors)}")
    if "device_memory_bytes" in summary:
        parts.append(f"{format_bytes(summary['device_memory_bytes'])} of device memory")
    return "; ".join(parts)
