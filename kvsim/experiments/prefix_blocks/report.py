"""Reports results of prefix blocks: columns, a picture over the budget, and the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from kvsim.experiments.prefix_blocks.cell import BlocksCell
from kvsim.report.comparison import PROCESSOR_NOTE, Compared, Comparison, Fields
from kvsim.report.results import RunResult
from kvsim.report.style import add_panels, legend_above, new_figure, png, policy_looks
from kvsim.report.tables import Column, percent, result_text, table_text
from kvsim.units import format_bytes, format_seconds

COLUMNS: dict[str, Column] = {
    "policy": Column(title="/policy"),
    "admission": Column(title="let/in"),
    "index": Column(title="/index"),
    "budget_blocks": Column(title="budget/blocks", text="{:,}".format),
    "cache_bytes": Column(title="/cache", text=format_bytes),
    "block_hit_frac": Column(title="hits/blocks", text="{:.3f}".format),
    "token_hit_frac": Column(title="hits/tokens", text="{:.3f}".format),
    "request_mean_hit_frac": Column(title="hits/by request", text="{:.3f}".format),
    "bound_block_hit_frac": Column(title="bound/blocks", text="{:.3f}".format),
    "evicted_blocks": Column(title="evicted/blocks", text="{:,}".format),
    "ttft_mean_s": Column(title="TTFT/mean", text=format_seconds),
    "ttft_full_mean_s": Column(title="TTFT/no cache", text=format_seconds),
    "ttft_saved_frac": Column(title="TTFT/saved", text=percent),
}

LEGEND = (
    "hits: share of the blocks, or of the tokens, found in the cache; by request: mean of each request's share of "
    "blocks.\nbound: what Belady's MIN hits in blocks with this budget. TTFT: time to first token of a request that "
    "waits for no other."
)


_NOT_MEASURED = {
    "published": "published ones, measured elsewhere",
    "estimated": "estimated from a data sheet, not measured",
    "exact": "stated, not measured",
}


def verdict_of(cells: Sequence[BlocksCell], *, profile_kind: str, is_assumed: bool) -> list[str]:
    """Return what the cells say in words, and what their figures leave out."""
    lines = []
    for group in _by_budget(cells).values():
        real = [cell for cell in group if cell["policy"] != "belady"]
        hits = [(hit_frac, cell) for cell in real if (hit_frac := cell["block_hit_frac"]) is not None]
        if not hits:
            continue
        hit_frac, best = max(hits, key=lambda pair: pair[0])
        budget = "no limit" if best["budget_blocks"] is None else f"{best['budget_blocks']:,} blocks"
        bound = best.get("bound_block_hit_frac")
        of_bound = f", {percent(hit_frac / bound)} of the bound" if bound else ""
        saved = best["ttft_saved_frac"]
        lines.append(
            f"{budget} ({format_bytes(best['cache_bytes'])}): {series_name(best)} hits {hit_frac:.3f} of the "
            f"blocks{of_bound}" + (f", and saves {percent(saved)} of the time to first token." if saved else ".")
        )
    if any(cell["ttft_mean_s"] is not None for cell in cells):
        lines.append(
            "Time to first token is the prefill of what was not hit, one request at a time: no queue, no batch, no "
            "transfer; hits are free, as where blocks stay on the device."
        )
    lines += _overload(cells)
    outside = max((cell.get("ttft_outside_frac") or 0.0 for cell in cells), default=0.0)
    if outside:
        lines.append(
            f"{percent(outside)} of the requests prefill after more tokens than the profile measured; their times are "
            "extrapolated linearly."
        )
    if is_assumed:
        lines.append("The trace has lengths only: what prompts share is an assumption of the scenario, not a finding.")
    if profile_kind != "measured":
        lines.append(f"The costs are {_NOT_MEASURED.get(profile_kind, profile_kind)}.")
    return lines


def _overload(cells: Sequence[BlocksCell]) -> list[str]:
    """Say so where the trace's requests come faster than they can be prefilled one at a time."""
    loads = [load for cell in cells if (load := cell.get("prefill_load_frac")) is not None]
    if not loads or max(loads) <= 1:
        return []
    least, most = min(loads), max(loads)
    loads_text = f"{most:.3g}" if f"{least:.3g}" == f"{most:.3g}" else f"{least:.3g} to {most:.3g}"
    return [
        f"The load is {loads_text}: prefilling the requests one at a time takes that many times the span in which they "
        "arrive. Above 1 a queue grows as long as requests come, and real times to first token are longer than these."
    ]


def hit_figure(summary: Mapping[str, Any]) -> Figure:
    """Return block hit rate and mean time to first token over the budget, a line a policy, with the bound."""
    cells: list[BlocksCell] = [cell for cell in summary["cells"] if cell["block_hit_frac"] is not None]
    foot = "Time to first token: prefill of what was not hit, without a queue."
    figure = new_figure(5.0, f"{summary['scenario']}: what a prefix cache saves", foot)
    left, right = add_panels(figure, 1, 2)[0]
    handles: dict[str, Any] = {}
    names = list(dict.fromkeys(series_name(cell) for cell in cells))
    looks = policy_looks(names)
    for name in names:
        own = sorted((cell for cell in cells if series_name(cell) == name), key=_budget)
        budgets = [_budget(cell) for cell in own]
        handles[name] = left.plot(budgets, [cell["block_hit_frac"] for cell in own], **looks[name])[0]
        known = [cell for cell in own if cell["ttft_mean_s"] is not None]
        right.plot([_budget(cell) for cell in known], [cell["ttft_mean_s"] for cell in known], **looks[name])
    bounded = sorted((cell for cell in cells if cell.get("bound_block_hit_frac") is not None), key=_budget)
    if bounded:
        places, bounds = [_budget(cell) for cell in bounded], [cell["bound_block_hit_frac"] for cell in bounded]
        handles["Belady's bound"] = left.plot(places, bounds, color="black", linestyle=":", linewidth=1.5)[0]
    full_s = max((cell["ttft_full_mean_s"] for cell in cells if cell["ttft_full_mean_s"] is not None), default=None)
    if full_s is not None:
        handles["no cache"] = right.axhline(full_s, color="0.5", linestyle="--", linewidth=1.5)
    left.set(xscale="log", xlabel="budget (blocks)", ylabel="share of blocks hit", ylim=(0, 1))
    right.set(xscale="log", xlabel="budget (blocks)", ylabel="time to first token, mean (s)")
    right.set_ylim(bottom=0)
    legend_above(figure, handles)
    return figure


def _budget(cell: BlocksCell) -> int:
    """Return the budget of a cell; one without a limit holds every block."""
    return int(cell["budget_blocks"] or cell["distinct_blocks"])


def series_name(cell: BlocksCell) -> str:
    """Return what a line of cells is called: its policy, with admission and index unless default."""
    parts = [cell["policy"]]
    if cell["admission"] != "all":
        parts.append(cell["admission"])
    if cell["index"] != "hash":
        parts.append(cell["index"])
    return " ".join(parts)


def _by_budget(cells: Sequence[BlocksCell]) -> dict[Any, list[BlocksCell]]:
    groups: dict[Any, list[BlocksCell]] = {}
    for cell in cells:
        groups.setdefault(cell["budget_blocks"], []).append(cell)
    return groups


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells and the verdict."""
    readings = [f"trace: {reading}" for reading in summary.get("trace_reading", [])]
    table = f"{table_text(summary['cells'], COLUMNS)}\n{LEGEND}"
    return result_text(summary, *readings, table)


def figures(result: RunResult) -> dict[str, bytes]:
    """Return the hit rate and the time to first token over the budget."""
    return {"prefix_blocks.png": png(hit_figure(result.summary))}


COMPARED = Fields(
    keys=("policy", "budget_blocks"),
    figures=("ttft_mean_s", "ttft_full_mean_s"),
    counts=("hit_blocks", "hit_tokens", "evicted_blocks"),
    columns=COLUMNS,
    digests={"requests_digest": "requests"},
)


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare hits and evictions, which must be equal, and the time to first token, cell by cell and by request."""
    comparison = Comparison(simulated, measured, COMPARED)
    comparison.rows_equal("requests_equal", "hits of every request", "hit_blocks")
    comparison.errors("request_ttft", comparison.row_errors("ttft_s"), "time to first token of a request")
    errors = comparison.row_errors("ttft_s", "processor_s")
    comparison.errors("request_processor", errors, "  against its processor time", PROCESSOR_NOTE)
    comparison.answers("requests")
    return comparison.compared(by="policy")
