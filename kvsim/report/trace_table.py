"""What `kvsim trace info` prints: how sparse and how predictable a trace is, on average and by layer."""

from __future__ import annotations

import math

from kvsim.report.tables import aligned
from kvsim.traces.access.header import TraceHeader
from kvsim.traces.access.statistics import TraceStatistics

_PERCENT = {
    "top_1_share_frac": "top 1",
    "top_4_share_frac": "top 4",
    "top_8_share_frac": "top 8",
    "top_16_share_frac": "top 16",
    "sink_frac": "sink",
    "recent_frac": "recent",
    "middle_frac": "middle",
    "step_recall_frac": "step",
    "layer_recall_frac": "layer",
    "middle_step_recall_frac": "mid step",
    "middle_layer_recall_frac": "mid layer",
    "middle_first_recall_frac": "mid fixed",
}
"""Statistics that are printed in percent, and what their column is called."""

_COUNTS = {"pages_for_90_percent": "p90", "pages_for_95_percent": "p95", "pages_for_99_percent": "p99"}

_LEGEND = """\
top k: mass in the k best pages, %. p90: pages that hold 90% of the mass. sink: mass of the first page; recent: of the
last 128 tokens; middle: of the rest. step: share of a step's best 8 pages that were among the best 8 of the step
before; layer: of the layer before; mid: both on the middle only, where prediction is hard; mid fixed: share that was
among the best 8 of the first 8 steps."""


def trace_text(statistics: TraceStatistics, header: TraceHeader) -> str:
    """Return where a trace comes from, then its means, a line a layer, and what each score channel sees."""
    by_layer = statistics.by_layer()
    means = statistics.averages()
    names = [*_PERCENT, *_COUNTS]
    rows = [["layer", *_PERCENT.values(), *_COUNTS.values()]]
    rows.append(["all", *(_shown(name, means[name]) for name in names)])
    for layer in range(statistics.num_layers):
        rows.append([str(layer), *(_shown(name, float(by_layer[name][layer])) for name in names)])
    chance = statistics.chance_recall_frac
    head = (
        f"{statistics.num_steps} steps, {statistics.num_layers} layers, {statistics.num_pages} pages of "
        f"{statistics.page_tokens} tokens, {statistics.middle_pages} of them in the middle "
        f"(recall by lot: {_percent(chance)}%)"
    )
    lines = [*_origin(header), head, "", *aligned(rows), "", _LEGEND, *_channels(statistics, means)]
    return "\n".join(lines)


def statistics_text(real: TraceStatistics, made: TraceStatistics) -> str:
    """Return the means of a trace beside those of what the generator fitted to it makes."""
    generated, recorded = made.averages(), real.averages()
    rows = [["statistic", "trace", "generator"]]
    for name, title in {**_PERCENT, **_COUNTS}.items():
        rows.append(
            [f"{title}, %" if name in _PERCENT else title, _shown(name, recorded[name]), _shown(name, generated[name])]
        )
    return "\n".join([*aligned(rows), "", _LEGEND])


def _origin(header: TraceHeader) -> list[str]:
    prompts = ", ".join(f"{tokens:,}" for tokens in header.prompt_tokens)
    return [
        f"{header.model} ({header.compute_dtype}) reading {header.text or 'an unnamed text'}: {header.recorded}, "
        f"{prompts} tokens of prompt",
        f"channels: {', '.join(channel.name for channel in header.channels)}",
        *([f"recipe: {header.recipe}"] if header.recipe else []),
    ]


def _channels(statistics: TraceStatistics, means: dict[str, float]) -> list[str]:
    if not statistics.channel_recall_frac:
        return ["", f"no score channel but the mass has pages of {statistics.page_tokens} tokens"]
    rows = [["channel", "sees", "mid sees", "mid step"]]
    for name in statistics.channel_recall_frac:
        kinds = ("channel_recall", "middle_channel_recall", "middle_channel_step_recall")
        rows.append([name, *(_percent(means[f"{kind}:{name}_frac"]) for kind in kinds)])
    legend = "sees: share of the best 8 pages by mass among the best 8 by the channel, %; mid step: its own, as above."
    return ["", *aligned(rows), "", legend]


def _shown(name: str, value: float) -> str:
    if name in _PERCENT:
        return _percent(value)
    return "-" if math.isnan(value) else f"{value:.0f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f}"
