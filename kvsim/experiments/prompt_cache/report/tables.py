"""The tables and the verdict of a prompt cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kvsim.experiments.prompt_cache.cell import BreakEven, PromptsCell
from kvsim.report.tables import Column, percent, result_text, signed_percent, table_text
from kvsim.units import format_bytes, format_seconds


def rate_text(value: float) -> str:
    """Return bytes a second as GB/s."""
    return f"{value / 1e9:.3g} GB/s"


COLUMNS: dict[str, Column] = {
    "tier": Column(title="/tier"),
    "policy": Column(title="/policy"),
    "shared_tokens": Column(title="tokens/shared", text="{:,}".format),
    "budget_bytes": Column(title="/budget", text=format_bytes),
    "link_bytes_per_s": Column(title="link if not/the profile's", text=rate_text),
    "hits": Column(title="prompts/hit", text="{:,}".format),
    "reused_frac": Column(title="tokens/reused", text=percent),
    "evicted": Column(title="given/up", text="{:,}".format),
    "demoted": Column(title="moved/to host", text="{:,}".format),
    "ttft_mean_s": Column(title="TTFT/all", text=format_seconds),
    "ttft_hit_s": Column(title="TTFT/hits", text=format_seconds),
    "ttft_hit_full_s": Column(title="the same/no cache", text=format_seconds),
    "speedup": Column(title="/speedup", text="{:.2f}x".format),
    "restore_hit_s": Column(title="of it/loading", text=format_seconds),
    "keep_mean_s": Column(title="keeping/a prompt", text=format_seconds),
    "least_link_bytes_per_s": Column(title="pays down/to a link of", text=rate_text),
}

LEGEND = (
    "hits: prompts that reused a token or more; their time to first token with the cache and without. Keeping a prompt "
    "comes\nafter its first token. Over a link slower than the last column says, loading what was reused takes longer "
    "than\ncomputing it."
)


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells, the break-evens and the verdict."""
    parts = [f"{table_text(summary['cells'], COLUMNS)}\n{LEGEND}"]
    if summary["break_evens"]:
        parts.append(break_evens_text(summary["break_evens"]))
    return result_text(summary, *parts)


def break_evens_text(entries: Sequence[BreakEven]) -> str:
    """Return break-evens as a table, simulated and measured ones beside each other where both are known."""
    columns: dict[str, Column] = {
        "tier": COLUMNS["tier"],
        "policy": COLUMNS["policy"],
        "link_bytes_per_s": COLUMNS["link_bytes_per_s"],
        "break_even": Column(title="loading beats computing/from"),
        "repeats": Column(title="/repeats"),
        "simulated": Column(title="/simulated"),
        "error_frac": Column(title="/error", text=signed_percent),
        "busy": Column(title="by processor/time"),
        "busy_error_frac": Column(title="/error", text=signed_percent),
    }
    rows = []
    for entry in entries:
        row: dict[str, Any] = {"tier": entry["tier"], "policy": entry["policy"]}
        row["link_bytes_per_s"] = entry["link_bytes_per_s"]
        row["break_even"] = _break_even_text(entry["verdict"], entry["from_tokens"], entry["lengths"])
        if "busy_verdict" in entry:
            row["busy"] = _break_even_text(entry["busy_verdict"], entry["busy_from_tokens"], entry["lengths"])
        crossed = [repeat["from_tokens"] for repeat in entry["repeats"] if repeat["from_tokens"] is not None]
        if crossed:
            row["repeats"] = f"{min(crossed):.0f} to {max(crossed):.0f}"
        if "simulated_verdict" in entry:
            row["simulated"] = _break_even_text(
                entry["simulated_verdict"], entry["simulated_from_tokens"], entry["lengths"]
            )
            row["error_frac"], row["busy_error_frac"] = entry["error_frac"], entry["busy_error_frac"]
        rows.append(row)
    return table_text(rows, columns)


def _break_even_text(verdict: str, from_tokens: float | None, lengths: Sequence[int]) -> str:
    if verdict == "from":
        return f"{from_tokens:.0f} tokens"
    return f"{lengths[0]} tokens, the fewest tried" if verdict == "always" else f"no length up to {lengths[-1]:,}"


def verdict_of(
    cells: Sequence[PromptsCell],
    crossings: Sequence[BreakEven],
    *,
    is_emulated: bool,
    stands_in: str | None,
) -> list[str]:
    """Return what the cells say in words, and what their figures leave out."""
    lines = []
    for entry in crossings:
        link = "" if entry["link_bytes_per_s"] is None else f" over a link of {rate_text(entry['link_bytes_per_s'])}"
        answer = _break_even_text(entry["verdict"], entry["from_tokens"], entry["lengths"])
        beats = "loading beats computing at" if entry["verdict"] == "never" else "loading beats computing from"
        lines.append(f"Tier {entry['tier']}{link}: {beats} {answer}{' on' if entry['verdict'] == 'from' else ''}.")
    hit = [(speedup, cell) for cell in cells if (speedup := cell["speedup"]) is not None]
    if hit:
        speedup, best = max(hit, key=lambda pair: pair[0])
        with_s, without_s = (format_seconds(time_s or 0.0) for time_s in (best["ttft_hit_s"], best["ttft_hit_full_s"]))
        shared = "" if best["shared_tokens"] is None else f" of which {best['shared_tokens']:,} tokens are shared"
        lines.append(
            f"At best (tier {best['tier']}, {best['policy']}) the first token of a prompt{shared} comes after "
            f"{with_s} in place of {without_s}: {speedup:.1f} times as fast."
        )
    if is_emulated and any(cell["tier"] != "device" for cell in cells):
        lines.append("The link to the host is emulated: its bandwidth is stated, not found.")
    if stands_in is not None:
        lines.append("The trace says which blocks prompts share, not their text: tokens stand in for them.")
    outside = max((cell.get("ttft_outside_frac") or 0.0 for cell in cells), default=0.0)
    if outside:
        lines.append(
            f"{percent(outside)} of the prompts of a cell ask for more than the profile measured: extrapolated."
        )
    return lines
