"""What a sweep found, in tables: which cells no other beats, and how much each field matters."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kvsim.experiments.decode.entry import Entry, value_of
from kvsim.experiments.decode.report.figures import some_of
from kvsim.experiments.decode.report.sweep_front import Summary, conditions_of, field_name, front_of, varied_fields
from kvsim.experiments.decode.report.table import swept_keys
from kvsim.report.frames import cells_frame
from kvsim.report.tables import aligned, percent
from kvsim.types import FloatArray
from kvsim.units import format_bytes, format_seconds

MAX_FRONT_LINES = 24
"""More cells of the front are left to ``cells.parquet``."""
MAX_ERROR_LINES = 10

WEIGHED = {"tpot_p50_s": "time per token", "stall_frac": "stall", "mass_recall_frac": "attention recall"}
"""Figures that the weight of the fields is printed for."""


def weights_of(summary: Summary) -> pd.DataFrame:
    """Return how much of the variation of some figures each varied field accounts for, a row a field and figure.

    ``alone_frac`` is the first-order index, the variance of the means over one field's values, and ``total_frac`` the
    total index, the mean variance left when all other fields are held, both over the variance of all cells (Saltelli et
    al., Computer Physics Communications 181, 2010; exact for a full grid, as here, without sampling). What lies between
    comes from fields acting together. Of the time per token, the logarithm. Cells left out or failed make both
    approximate. NaN where nothing varies.
    """
    frame = cells_frame(summary)
    fields = varied_fields(summary)
    labels = {field: frame[field].map(str).to_numpy() for field in fields}
    rows = []
    for figure in WEIGHED:
        values = frame[figure].to_numpy(dtype=np.float64, na_value=np.nan)
        values = np.log(values) if figure == "tpot_p50_s" else values
        known = np.isfinite(values)
        for field in fields:
            others = [labels[other][known] for other in fields if other != field]
            together = np.array(["\0".join(parts) for parts in zip(*others, strict=True)]) if others else None
            alone, total = _indices(values[known], labels[field][known], together)
            rows.append({"field": field, "figure": figure, "alone_frac": alone, "total_frac": total})
    return pd.DataFrame(rows, columns=["field", "figure", "alone_frac", "total_frac"])


def _indices(values: FloatArray, own: Any, others: Any | None) -> tuple[float, float]:
    variance = float(values.var()) if values.size else 0.0
    if variance <= 1e-18 * max(float(np.abs(values).max(initial=0.0)) ** 2, 1e-300):
        return float("nan"), float("nan")
    alone = pd.Series(values).groupby(own).transform("mean").to_numpy().var()
    if others is None:
        return float(alone / variance), 1.0
    left = values - pd.Series(values).groupby(others).transform("mean").to_numpy()
    return float(alone / variance), float((left**2).mean() / variance)


def sweep_text(summary: Summary, *, width: int = 120) -> str:
    """Return the front and the weights of the fields as text, and the failures where there are any."""
    parts = [_front_text(summary, width), _weights_text(summary, width)]
    failed = summary.get("failed", ())
    if failed:
        parts.append(_failures_text(summary, failed))
    return "\n\n".join(part for part in parts if part)


def _front_text(summary: Summary, width: int) -> str:
    cells, conditions = summary["cells"], conditions_of(summary)
    front = front_of(summary)
    keys = conditions + [key for key in varied_fields(summary) if key != "policy" and key not in conditions]
    titles = [key.rsplit(".", 1)[-1].replace("_", " ") for key in keys]
    columns = ["policy", *titles, "TPOT p50", "stall", "hits", "device", "attention recall"]
    num_fitting = sum(bool(cell["fits"]) for cell in cells)
    like = f" with the same {' and '.join(map(field_name, conditions))}" if conditions else ""
    caption = (
        f"{summary['scenario']}: {num_fitting} of {len(cells)} cells fit "
        f"{format_bytes(summary['device_memory_bytes'])}. "
        f"{len(front)} of them no other{like} beats in time, memory and attention recall at once:"
    )
    if not num_fitting:
        caption = f"{summary['scenario']}: none of {len(cells)} cells fits. Those that no other beats all the same:"
    shown = some_of(front, MAX_FRONT_LINES)
    lines = aligned([columns, *(_front_row(cells[number], keys) for number in shown)])
    more = len(front) - len(shown)
    note = [f"Evenly chosen; {more} more in cells.parquet (on_front)."] if more else []
    return "\n".join([*textwrap.wrap(caption, width), "", *lines, *note])


def _front_row(cell: Entry, keys: Sequence[str]) -> list[str]:
    return [
        cell["policy"],
        *(str(value_of(cell, key)) for key in keys),
        format_seconds(cell["tpot_p50_s"]),
        percent(cell["stall_frac"]),
        percent(cell["hit_frac"]),
        format_bytes(cell["device_bytes"]),
        percent(cell["mass_recall_frac"]),
    ]


def _weights_text(summary: Summary, width: int) -> str:
    """Return a line a field: what share of the variation it makes alone, and with its interactions."""
    weights = weights_of(summary)
    if weights.empty:
        return ""
    table = [["field", *(f"{name}: alone / total" for name in WEIGHED.values())]]
    for field in dict.fromkeys(weights["field"]):
        own = weights[weights["field"] == field].set_index("figure")
        shares = [[percent(own.loc[figure, name], 0) for name in ("alone_frac", "total_frac")] for figure in WEIGHED]
        table.append([field_name(field), *map(" / ".join, shares)])
    caption = (
        "How much each field matters: share of the variance over all cells that it makes alone, and in all, together "
        "with what it does jointly with others (time: of the logarithm)."
    )
    return "\n".join([*textwrap.wrap(caption, width), "", *aligned(table)])


def _failures_text(summary: Summary, failed: Sequence[Mapping[str, Any]]) -> str:
    by_error: dict[str, list[Mapping[str, Any]]] = {}
    for cell in failed:
        by_error.setdefault(str(cell["error"]), []).append(cell)
    lines = [f"{len(failed)} of {len(failed) + len(summary['cells'])} cells failed:"]
    for error, cells in list(by_error.items())[:MAX_ERROR_LINES]:
        keys = swept_keys(summary)
        where = ", ".join([str(cells[0]["policy"]), *(f"{key} = {cells[0][key]}" for key in keys)])
        others = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        lines.append(f"  {where}{others}: {error}")
    more = len(by_error) - MAX_ERROR_LINES
    return "\n".join([*lines, *([f"  ... and {more} more errors in summary.json (failed)"] if more > 0 else [])])
