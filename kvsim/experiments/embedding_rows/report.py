"""Reports results of a cache of embedding rows: columns, a picture over the memory, and the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kvsim.experiments.embedding_rows.cell import RowsCell
from kvsim.report.comparison import Compared, Comparison, Fields
from kvsim.report.results import RunResult
from kvsim.report.style import add_panels, legend_above, new_figure, png, policy_looks
from kvsim.report.tables import Column, percent, result_text, table_text
from kvsim.units import format_bytes, format_seconds

COLUMNS: dict[str, Column] = {
    "mode": Column(title="/mode"),
    "policy": Column(title="/policy"),
    "run.prompt_tokens": Column(title="prompt/tokens"),
    "run.batch": Column(title="/batch"),
    "prefetch.queued": Column(title="next/prompt", text=lambda value: "ahead" if value else "waits"),
    "prefetch.bigram_rows": Column(title="/bigrams"),
    "budget_rows": Column(title="budget/rows", text="{:,}".format),
    "cache_bytes": Column(title="on the/device", text=format_bytes),
    "saved_bytes": Column(title="device/saved", text=format_bytes),
    "token_hit_frac": Column(title="hits/tokens", text=percent),
    "row_hit_frac": Column(title="hits/rows", text=percent),
    "bound_hit_frac": Column(title="bound/rows", text=percent),
    "step_hit_frac": Column(title="hits/next tok.", text=percent),
    "predicted_frac": Column(title="next tok./predicted", text=percent),
    "prefetched_rows": Column(title="fetched/ahead", text="{:,}".format),
    "prefetch_used_frac": Column(title="of them/used", text=percent),
    "prompt_embed_mean_s": Column(title="prompt/rows", text=format_seconds),
    "step_embed_mean_s": Column(title="next token/rows", text=format_seconds),
    "prompt_mean_s": Column(title="first/token", text=format_seconds),
    "request_mean_s": Column(title="whole/request", text=format_seconds),
    "tokens_per_s": Column(title="tokens/per s", text="{:.2f}".format),
    "speed_vs_resident": Column(title="speed/vs res.", text="{:.4f}x".format),
}

LEGEND = (
    "hits: share of tokens, or of the distinct rows of each call, that were on the device; bound: what Belady's MIN "
    "hits,\nall calls to come known; next tok.: of single tokens' rows. predicted: how often the bigrams named the "
    "next token.\nprompt rows, next token rows: from the call of the embedding to its rows, a prompt's or a single "
    "token's. res.: the\nwhole table on the device."
)


def verdict_of(cells: Sequence[RowsCell]) -> list[str]:
    """Return what the cells say in words, and what their figures leave out."""
    if not cells:
        return []
    lines = []
    for budget in dict.fromkeys(cell["budget_rows"] for cell in cells):
        group = [cell for cell in cells if cell["budget_rows"] == budget and cell["policy"] != "belady"]
        texts = [_mode_text(mode, group) for mode in ("cold", "warm", "steady", "prefetch")]
        if any(texts):
            size = format_bytes(budget * group[0]["row_bytes"])
            lines.append(f"{budget:,} rows ({size}), a prompt's rows: {'; '.join(text for text in texts if text)}.")
    slowest = min(cells, key=lambda cell: cell["speed_vs_resident"])
    lines.append(
        f"A request takes at most {percent(1 / slowest['speed_vs_resident'] - 1)} longer than with the whole table of "
        f"{format_bytes(slowest['table_bytes'])} on the device ({slowest['mode']}, {slowest['policy']}, "
        f"{slowest['budget_rows']:,} rows)."
    )
    return lines + _reservations(cells)


def _mode_text(mode: str, group: Sequence[RowsCell]) -> str:
    own = [cell for cell in group if cell["mode"] == mode]
    if not own:
        return ""
    best = min(own, key=lambda cell: cell["prompt_embed_mean_s"])
    policy = f" ({best['policy']})" if len(own) > 1 else ""
    return f"{mode} {format_seconds(best['prompt_embed_mean_s'])}{policy}"


def _reservations(cells: Sequence[RowsCell]) -> list[str]:
    lines = []
    if any(cell["is_tied"] for cell in cells):
        lines.append(
            "The output head shares the table (tied weights) and reads all of it on the device, so the cache comes on "
            "top of it: nothing is saved. With a head of its own the table would leave, and "
            f"{format_bytes(cells[0]['table_bytes'])} less the cache would be saved."
        )
    if any(cell["is_drawn"] for cell in cells):
        lines.append(
            f"The tokens are drawn one by one from a Zipf law with exponent {cells[0]['zipf_exponent']:.3f}, fitted to "
            "the stream: no text has these words in this order, and real text repeats itself more."
        )
    foreign = next((cell["computes_as"] for cell in cells if cell.get("computes_as")), None)
    if foreign:
        lines.append(
            f"Computation is that of the model of profile {foreign}, rows are those of model.shape: a model that such "
            "rows belong to computes longer, so its share of waiting is smaller than shown."
        )
    outside = max((cell.get("outside_frac") or 0.0 for cell in cells), default=0.0)
    if outside:
        lines.append(
            f"{percent(outside)} of the calls lie outside what the profile measured; their times are extrapolated."
        )
    return lines


def rows_figure(summary: Mapping[str, Any]) -> Figure:
    """Return hit rate and time of a prompt's rows over the budget, and speed over what is saved, a line a policy."""
    cells: Sequence[RowsCell] = summary["cells"]
    foot = "Rows: from the call of the embedding to its rows. Dashed: the whole table on the device."
    if any(cell["is_tied"] for cell in cells):
        foot += " Saved: if the head had a table of its own; here it shares this one, and nothing is saved."
    figure = new_figure(5.4, f"{summary['scenario']}: a cache of embedding rows", foot)
    left, middle, right = add_panels(figure, 1, 3)[0]
    looks = policy_looks(dict.fromkeys(series_name(cell) for cell in cells))
    handles: dict[str, Any] = {}
    for name, look in looks.items():
        own = sorted((cell for cell in cells if series_name(cell) == name), key=lambda cell: cell["budget_rows"])
        budgets = [cell["budget_rows"] for cell in own]
        handles[name] = left.plot(budgets, [cell["token_hit_frac"] for cell in own], **look)[0]
        middle.plot(budgets, [1e3 * cell["prompt_embed_mean_s"] for cell in own], **look)
        spared_mib = [(cell["table_bytes"] - cell["cache_bytes"]) / 2**20 for cell in own]
        right.plot(spared_mib, [cell["tokens_per_s"] for cell in own], **look)
    if cells:
        middle.axhline(1e3 * cells[0]["prompt_plain_embed_mean_s"], color="0.5", linestyle="--", linewidth=1.5)
        right.axhline(cells[0]["resident_tokens_per_s"], color="0.5", linestyle="--", linewidth=1.5)
    for axis in (left, middle):
        axis.set(xscale="log", xlabel="budget (rows)")
    right.set(xlabel="device memory saved (MiB)")
    left.set(ylabel="share of tokens hit", ylim=(0, 1.03))
    middle.set(ylabel="a prompt's rows, mean (ms)", yscale="log")
    middle.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    middle.yaxis.set_major_formatter("{x:g}")
    middle.yaxis.set_minor_formatter(NullFormatter())
    right.set(ylabel="tokens per s")
    legend_above(figure, handles)
    return figure


def series_name(cell: RowsCell) -> str:
    """Return what a line of cells is called."""
    return f"{cell['mode']} {cell['policy']}"


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells and the verdict."""
    return result_text(summary, f"{table_text(summary['cells'], COLUMNS)}\n{LEGEND}")


def figures(result: RunResult) -> dict[str, bytes]:
    """Return hit rate and time per prompt over the memory of the cache."""
    return {"embedding_rows.png": png(rows_figure(result.summary))}


COMPARED = Fields(
    keys=("mode", "policy", "budget_rows"),
    figures=("prompt_embed_mean_s", "step_embed_mean_s", "prompt_mean_s", "request_mean_s"),
    counts=("tokens", "distinct_rows", "hit_rows", "missed_rows", "prefetched_rows", "evicted_rows"),
    columns=COLUMNS,
    digests={"tokens_digest": "tokens"},
)


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare rows hit, missed, fetched ahead and evicted, which must be equal, and times; and whether bits are."""
    comparison = Comparison(simulated, measured, COMPARED)
    comparison.rows_equal("calls_equal", "hits of every call", "hit_rows")
    same_frac = min(cell["same_logits_frac"] for cell in measured.summary["cells"])
    comparison.contents["same_logits_frac"] = same_frac
    comparison.lines.append(
        f"against the whole table on the device: logits equal to the last bit in {percent(same_frac, 0)} of the calls"
    )
    return comparison.compared(by="mode")
