"""How generation grows with and without a KV cache: exponents fitted to the cells, beside what theory says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from kvsim.experiments.kv_on_off.cell import Growth, KvCell
from kvsim.report.comparison import Compared, Comparison, Fields
from kvsim.report.results import RunResult
from kvsim.report.style import PALETTE, add_panels, legend_above, new_figure, png
from kvsim.report.tables import Column, result_text, table_text
from kvsim.units import format_bytes

COLUMNS: dict[str, Column] = {
    "use_cache": Column(title="KV/cache", text=lambda value: "on" if value else "off"),
    "batch": Column(title="/batch"),
    "prompt_tokens": Column(title="prompt/tokens"),
    "new_tokens": Column(title="new/tokens"),
    "latency_s": Column(title="latency/s", text="{:.2f}".format),
    "first_token_s": Column(title="first token/s", text="{:.3f}".format),
    "tokens_per_s": Column(title="tokens/per s", text="{:.1f}".format),
    "speed_vs_off": Column(title="speed/vs off", text="{:.2f}x".format),
    "kv_bytes": Column(title="KV cache/at the end", text=format_bytes),
    "peak_bytes": Column(title="peak memory/over weights", text=format_bytes),
    "computed_tokens": Column(title="tokens/computed", text="{:,}".format),
}

GROWTH_COLUMNS: dict[str, Column] = {
    "growth": Column(title="/growth"),
    "use_cache": Column(title="/cache", text=lambda value: "on" if value else "off"),
    "exponent": Column(title="/exponent", text="{:.2f}".format),
    "range": Column(title="by/theory"),
    "theory": Column(title="/because"),
}

_THEORY: dict[tuple[str, bool], tuple[float, float, str]] = {
    ("step time over context", False): (1.0, 2.0, "every token again: matrix products grow by 1, attention by 2"),
    ("step time over context", True): (0.0, 1.0, "one token: weights are read alike, attention grows by 1"),
    ("first token over prompt", False): (1.0, 2.0, "the prompt at once: matrix products by 1, attention by 2"),
    ("first token over prompt", True): (1.0, 2.0, "the prompt at once: matrix products by 1, attention by 2"),
    ("tokens per second over batch", False): (0.0, 1.0, "0 where arithmetic is the limit, 1 where reading weights is"),
    ("tokens per second over batch", True): (0.0, 1.0, "0 where arithmetic is the limit, 1 where reading weights is"),
    ("KV cache over context", True): (1.0, 1.0, "a row of keys and values for each token"),
}
"""Least and greatest exponent that theory allows, and why, by what grows and whether there is a cache."""


def exponent(amounts: ArrayLike, values: ArrayLike) -> float | None:
    """Return the slope of log `values` over log `amounts`, least squares; None for fewer than two amounts.

    Examples
    --------
    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    x, y = np.asarray(amounts, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if np.unique(x).size < 2:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def growth_of(cells: Sequence[KvCell], rows: Mapping[str, NDArray[Any]]) -> list[Growth]:
    """Return the exponent of everything that grows, in ``summary["growth"]``; batch 1 but where the batch grows."""
    entries: list[Growth] = []
    for use_cache in (False, True):
        of_cache = [cell for cell in cells if cell["use_cache"] is use_cache]
        if not of_cache:
            continue
        batch = min(cell["batch"] for cell in of_cache)
        alone = [cell for cell in of_cache if cell["batch"] == batch]
        prompt = max(cell["prompt_tokens"] for cell in of_cache)
        batched = [cell for cell in of_cache if cell["prompt_tokens"] == prompt]
        chosen = (rows["use_cache"] == use_cache) & (rows["batch"] == batch) & (rows["step"] > 0)
        exponents = {
            "step time over context": exponent(rows["context_tokens"][chosen], rows["step_s"][chosen]),
            "first token over prompt": exponent(
                [cell["prompt_tokens"] for cell in alone], [cell["first_token_s"] for cell in alone]
            ),
            "tokens per second over batch": exponent(
                [cell["batch"] for cell in batched], [cell["tokens_per_s"] for cell in batched]
            ),
        }
        if use_cache:
            contexts = [cell["prompt_tokens"] + cell["new_tokens"] - 1 for cell in alone]
            exponents["KV cache over context"] = exponent(contexts, [cell["kv_bytes"] for cell in alone])
        for name, value in exponents.items():
            low, high, reason = _THEORY[name, use_cache]
            entries.append(
                Growth(
                    growth=name,
                    use_cache=use_cache,
                    exponent=value,
                    theory_low=low,
                    theory_high=high,
                    theory=reason,
                )
            )
    return entries


def growth_rows(growth: Sequence[Growth]) -> list[dict[str, Any]]:
    """Return the exponents with the range that theory allows, in words."""
    ranges = (dict.fromkeys(f"{end:g}" for end in (entry["theory_low"], entry["theory_high"])) for entry in growth)
    return [{**entry, "range": " to ".join(ends)} for entry, ends in zip(growth, ranges, strict=True)]


def growth_figure(result: RunResult) -> Figure:
    """Return latency and memory over the prompt, tokens a second over the batch, and a step over the context."""
    cells: Sequence[KvCell] = result.summary["cells"]
    kind = "measured" if result.summary.get("is_measured") else "simulated"
    figure = new_figure(7.6, f"Generation with and without a KV cache ({kind})")
    axes = [axis for row in add_panels(figure, 2, 2) for axis in row]
    handles: dict[str, Any] = {}
    series = sorted({(cell["use_cache"], cell["batch"]) for cell in cells})
    prompts = sorted({cell["prompt_tokens"] for cell in cells})
    for use_cache, batch in series:
        color = PALETTE[sorted({cell["batch"] for cell in cells}).index(batch) % len(PALETTE)]
        look: dict[str, Any] = {"color": color, "linestyle": "solid" if use_cache else (0, (4, 2.5)), "marker": "o"}
        chosen = [cell for cell in cells if cell["use_cache"] == use_cache and cell["batch"] == batch]
        x = [cell["prompt_tokens"] for cell in chosen]
        (line,) = axes[0].plot(x, [cell["latency_s"] for cell in chosen], **look)
        axes[2].plot(x, [cell["peak_bytes"] / 2**20 for cell in chosen], **look)
        handles[f"cache {'on' if use_cache else 'off'}, batch {batch}"] = line
        rows = (result.rows["use_cache"] == use_cache) & (result.rows["batch"] == batch) & (result.rows["step"] > 0)
        context, step_s = result.rows["context_tokens"][rows], result.rows["step_s"][rows]
        axes[3].plot(context, step_s * 1e3, color=color, linestyle="", marker="." if use_cache else "x", markersize=3)
    for place, prompt in enumerate(prompts):
        for use_cache in sorted({use for use, _ in series}):
            chosen = [cell for cell in cells if cell["use_cache"] == use_cache and cell["prompt_tokens"] == prompt]
            axes[1].plot(
                [cell["batch"] for cell in chosen],
                [cell["tokens_per_s"] for cell in chosen],
                color=str(0.15 + 0.25 * (place % 3)),
                linestyle="solid" if use_cache else (0, (4, 2.5)),
                marker="osD^vPX*"[place % 8],
                label=f"prompt {prompt}" if use_cache else None,
            )
    axes[0].set(xlabel="prompt (tokens)", ylabel="latency (s)", yscale="log")
    axes[1].set(xlabel="batch (sequences)", ylabel="tokens per second", yscale="log")
    axes[2].set(xlabel="prompt (tokens)", ylabel="memory over weights (MiB)", yscale="log")
    axes[3].set(xlabel="context (tokens)", ylabel="one step (ms)", yscale="log")
    low, high = axes[1].get_ylim()
    axes[1].set(ylim=(low, 2 * high), xticks=sorted({cell["batch"] for cell in cells}))
    axes[1].legend(fontsize=8, loc="upper left", ncols=len(prompts))
    for axis in axes:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
    legend_above(figure, handles)
    return figure


def show(summary: Mapping[str, Any]) -> str:
    """Return the table of the cells, how they grow, and the verdict."""
    growth = table_text(growth_rows(summary["growth"]), GROWTH_COLUMNS, left=(0, 4))
    return result_text(summary, table_text(summary["cells"], COLUMNS), growth)


def figures(result: RunResult) -> dict[str, bytes]:
    """Return latency, throughput and memory over the prompt, and the time of a step over the context."""
    return {"kv_on_off.png": png(growth_figure(result))}


COMPARED = Fields(
    keys=("use_cache", "batch", "prompt_tokens", "new_tokens"),
    figures=("latency_s", "first_token_s", "peak_bytes"),
    counts=("kv_bytes", "computed_tokens"),
    columns=COLUMNS,
)


def compare(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare latency, time to first token and memory of every cell; bytes of the cache and tokens must be equal."""
    return Comparison(simulated, measured, COMPARED).compared(by="use_cache")
