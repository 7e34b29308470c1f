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
    """Return times to first token, a bar for full attention and one for each tier that modules are stored on."""
    names = list(dict.fromkeys(str(prompt["prompt"]) for prompt in prompts))
    series = {"full attention": [_milliseconds(prompts, name, "ttft_full_s") for name in names]}
    for tier in dict.fromkeys(prompt["tier"] for prompt in prompts):
        own = [prompt for prompt in prompts if prompt["tier"] == tier]
        series[f"stored on the {tier}"] = [_milliseconds(own, name, "ttft_s") for name in names]
    note = "All of a prompt's modules are in the store."
    return _bars("Time to first token by prompt", "time to first token, ms", names, series, note)


def _divergence(prompts: Sequence[Mapping[str, Any]]) -> Chart:
    first = {str(prompt["prompt"]): prompt for prompt in reversed(prompts)}
    names = list(reversed(first))
    figures = {"first token": "kl_first_nats", "answer": "kl_mean_nats"}
    series = {label: [first[name].get(figure) for name in names] for label, figure in figures.items()}
    return _bars("What reuse costs in quality", "KL divergence from full attention, nats", names, series)


def _bars(
    title: str, axis: str, names: Sequence[str], series: Mapping[str, Sequence[float | None]], note: str = ""
) -> Chart:
    looks = palette_looks(series)
    traces = [rows_of_bars(label, names, values, looks[label].color) for label, values in series.items()]
    view = View(name="all prompts", traces=traces, layout=bars_layout(axis))
    return Chart(title=title, views=[view], note=note, height_pixels=bars_height(len(names)))


def _milliseconds(prompts: Sequence[Mapping[str, Any]], name: str, figure: str) -> float | None:
    return next((1e3 * prompt[figure] for prompt in prompts if str(prompt["prompt"]) == name), None)
