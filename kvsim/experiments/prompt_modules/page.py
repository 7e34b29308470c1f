"""What the experiment adds to the page of a result."""

from collections.abc import Mapping, Sequence
from typing import Any

from kvsim.experiments.prompt_modules.report import COLUMNS, COMPARED, LEGEND, PROMPT_COLUMNS, series_name
from kvsim.report.html.charts import Chart, View, bars_height, bars_layout, palette_looks, rows_of_bars
from kvsim.report.html.parts import Parts, charts_of
from kvsim.report.html.tables import Table
from kvsim.report.results import RunResult

_FIGURES = {"module_hit_frac": "share of the modules hit", "ttft_mean_s": "time to first token, mean"}


def parts(result: RunResult) -> Parts:
    """Return times by prompt, what reuse costs in quality where it was measured, and hits over the budget."""
    summary = result.summary
    prompts = summary["prompts"]
    charts = [_times(prompts)]
    if any("kl_mean_nats" in prompt for prompt in prompts):
        charts.append(_divergence(prompts))
    charts += charts_of(
        summary["cells"],
        _FIGURES,
        keys=summary["swept"],
        over="budget_modules",
        over_title="budget, modules",
        series=lambda cell: f"{series_name(cell)}, {cell['tier']}",
    )
    return Parts(
        columns=COLUMNS,
        keys=COMPARED.keys,
        figures=COMPARED.figures,
        charts=charts,
        legend=LEGEND,
        tables=[Table(title="Prompts", rows=prompts, columns=PROMPT_COLUMNS)],
    )


def _times(prompts: Sequence[Mapping[str, Any]]) -> Chart:
    names = list(dict.fromkeys(str(prompt["prompt"]) for prompt in prompts))
    series = {"full attention": ("ttft_full_s", prompts)}
    for tier in dict.fromkeys(prompt["tier"] for prompt in prompts):
        series[f"stored on the {tier}"] = ("ttft_s", [prompt for prompt in prompts if prompt["tier"] == tier])
    looks = palette_looks(series)
    traces = [
        rows_of_bars(label, names, [_milliseconds(own, name, figure) for name in names], looks[label].color)
        for label, (figure, own) in series.items()
    ]
    view = View(name="all prompts", traces=traces, layout=bars_layout("time to first token, ms"))
    note = "All of a prompt's modules are in the store."
    return Chart(title="Time to first token by prompt", views=[view], note=note, height_pixels=bars_height(len(names)))


def _divergence(prompts: Sequence[Mapping[str, Any]]) -> Chart:
    first = {str(prompt["prompt"]): prompt for prompt in reversed(prompts)}
    names = list(reversed(first))
    series = {"first token": "kl_first_nats", "answer": "kl_mean_nats"}
    looks = palette_looks(series)
    traces = [
        rows_of_bars(label, names, [first[name].get(figure) for name in names], looks[label].color)
        for label, figure in series.items()
    ]
    view = View(name="all prompts", traces=traces, layout=bars_layout("KL divergence from full attention, nats"))
    return Chart(title="What reuse costs in quality", views=[view], height_pixels=bars_height(len(names)))


def _milliseconds(prompts: Sequence[Mapping[str, Any]], name: str, figure: str) -> float | None:
    return next((1e3 * prompt[figure] for prompt in prompts if str(prompt["prompt"]) == name), None)
