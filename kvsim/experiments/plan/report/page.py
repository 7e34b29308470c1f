"""The page of `kvsim plan --report`: the options as a table and as figures, with what they rest on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from kvsim import __version__
from kvsim.experiments.plan.report.figure import COLORS
from kvsim.experiments.plan.report.text import LEGEND, largest_text, plan_json
from kvsim.experiments.plan.result import Option, Plan, State
from kvsim.experiments.plan.scenario import scenario_text
from kvsim.profile.estimate.coefficients import load_coefficients
from kvsim.report.card_table import card_facts
from kvsim.report.html.cell_charts import scale_of, with_unit
from kvsim.report.html.charts import (
    Chart,
    Look,
    View,
    axis,
    bars_height,
    bars_layout,
    dots,
    escaped,
    ranges_of,
    rows_of_bars,
    upright,
    value_axis,
)
from kvsim.report.html.page import Page, Provenance
from kvsim.report.html.tables import Table, own_columns
from kvsim.scenario.models.known import known_models
from kvsim.units import format_bytes

LOOKS = {state: Look(color=color) for state, color in COLORS.items()}
FIRST = (
    "name", "state", "fits", "device_bytes", "host_bytes", "num_cards", "tpot_s", "tpot_interval_s", "tokens_per_s",
    "recall_frac", "weights", "kv", "basis", "cell",
)  # fmt: skip
TITLES = {
    "name": "option",
    "device_bytes": "card",
    "host_bytes": "host",
    "num_cards": "cards",
    "tpot_s": "TPOT",
    "tpot_interval_s": "interval",
    "recall_frac": "recall",
}
"""As the printed table has them, where they are not those of the fields."""
PARTS = {
    "weights_bytes": "weights",
    "kv_bytes": "KV cache",
    "activation_bytes": "activations",
    "reserve_bytes": "runtime",
}
"""The parts of the memory of one card that holds everything."""
SIZES = PARTS | {
    "total_bytes": "total",
    "usable_bytes": "usable",
    "card_bytes": "card",
    "max_kv_bytes": "left for the KV cache",
}


def plan_page(plan: Plan, *, command: str) -> Page:
    """Return the page of a plan; its numbers are those of `plan_json`."""
    answer = plan_json(plan)
    rows = [option | {"state": plan.state(one)} for option, one in zip(answer["options"], plan.options, strict=True)]
    memory = [{"part": part, "size_bytes": answer["memory"][name]} for name, part in SIZES.items()]
    columns = own_columns(rows, FIRST)
    columns |= {name: replace(columns[name], title=title) for name, title in TITLES.items()}
    legend = f"{LEGEND} Without a recall: attention to all tokens."
    request = plan.request
    return Page(
        title=f"{request.spec.name} on {request.card.title}",
        kind="kvsim report: plan",
        question="Does it fit, what does each way of managing the KV cache cost, and which one to take?",
        facts=_facts(plan),
        verdict=[*(f"Warning: {text}" for text in plan.warnings), *plan.sentences, largest_text(plan)],
        tables=[
            Table(title="Options", rows=rows, columns=columns, legend=legend),
            Table(title="Memory with everything on one card", rows=memory, columns=own_columns(memory)),
        ],
        charts=list(_charts(plan)),
        limitations=plan.notes,
        provenance=list(_provenance(plan, answer, command)),
    )


def _facts(plan: Plan) -> dict[str, str]:
    request = plan.request
    limit = f"at most {request.tpot_s * 1e3:g} ms a token" if request.tpot_s is not None else ""
    recall = f"recall of {request.recall_frac:g}" if request.recall_frac is not None else ""
    return {
        "Sequences": f"{request.batch:,}",
        "Context": f"{request.context_tokens:,} tokens",
        "Usable memory": format_bytes(request.usable_bytes),
        "Everything on the card": "fits" if plan.memory.fits else "does not fit",
        "Times": "the least that is possible" if plan.options[0].basis == "roofline" else "estimated, not measured",
        "Asked for": ", ".join(filter(None, (limit, recall))),
    }


def _charts(plan: Plan) -> Iterator[Chart]:
    yield _memory_chart(plan)
    yield _times_chart(plan)
    if len({option.recall_frac for option in plan.options}) > 1:
        yield _recall_chart(plan)


def _memory_chart(plan: Plan) -> Chart:
    sizes = [option.device_bytes for option in plan.options]
    factor, unit = scale_of("device_bytes", [*map(float, sizes), float(plan.request.usable_bytes)])
    traces = [
        rows_of_bars(state, [one.name for one in own], [one.device_bytes / factor for one in own], LOOKS[state].color)
        for state, own in _by_state(plan)
    ]
    layout = _rows_layout(plan, with_unit("memory of a card", unit)) | upright(plan.request.usable_bytes / factor)
    parts = ", ".join(f"{title} {format_bytes(getattr(plan.memory, name))}" for name, title in PARTS.items())
    return Chart(
        title="Memory of one card",
        views=[View(name="all", traces=traces, layout=layout)],
        note=f"Dashed: {format_bytes(plan.request.usable_bytes)} usable. Everything on the card: {parts}.",
        height_pixels=bars_height(len(sizes)),
    )


def _times_chart(plan: Plan) -> Chart:
    ends = [end_s for option in plan.options for end_s in option.tpot_interval_s]
    factor, unit = scale_of("tpot_s", ends)
    traces = [
        ranges_of(
            state,
            [one.name for one in own],
            [one.tpot_s / factor for one in own],
            [(one.tpot_interval_s[0] / factor, one.tpot_interval_s[1] / factor) for one in own],
            LOOKS[state],
        )
        for state, own in _by_state(plan)
    ]
    abscissa = value_axis(with_unit("time per output token", unit), [end_s / factor for end_s in ends], log_from=8.0)
    layout = _rows_layout(plan, "") | {"xaxis": abscissa}
    return Chart(
        title="Time per output token, with its interval",
        views=[View(name="all", traces=traces, layout=layout)],
        height_pixels=bars_height(len(plan.options)),
    )


def _recall_chart(plan: Plan) -> Chart:
    factor, unit = scale_of("tpot_s", [option.tpot_s for option in plan.options])
    traces = [
        dots(
            state,
            [one.tpot_s / factor for one in own],
            [100 * one.read_frac for one in own],
            LOOKS[state],
            texts=[one.name for one in own],
        )
        for state, own in _by_state(plan)
    ]
    times = [option.tpot_s / factor for option in plan.options]
    layout = {
        "xaxis": value_axis(with_unit("time per output token", unit), times, log_from=8.0),
        "yaxis": axis("attention recall, %") | {"range": [0, 104]},
        "hovermode": "closest",
    }
    return Chart(
        title="What is read, and how long it takes",
        views=[View(name="all", traces=traces, layout=layout)],
        note="Fewer bits lose quality that is not counted here.",
    )


def _by_state(plan: Plan) -> list[tuple[State, list[Option]]]:
    groups = [(state, [one for one in plan.options if plan.state(one) == state]) for state in LOOKS]
    return [(state, own) for state, own in groups if own]


def _rows_layout(plan: Plan, title: str) -> dict[str, Any]:
    """Return the layout of a row for each option, in the order of the table."""
    layout = bars_layout(title, is_stacked=True)
    names = [escaped(option.name) for option in plan.options]
    return layout | {"yaxis": layout["yaxis"] | {"categoryorder": "array", "categoryarray": names}}


def _provenance(plan: Plan, answer: Mapping[str, Any], command: str) -> Iterator[Provenance]:
    request, card = plan.request, plan.request.card
    model = known_models().get(request.spec.name)
    scenario = "" if plan.scenario is None else scenario_text(plan.scenario, request, command)
    yield Provenance(
        title="",
        facts={
            "Command": command,
            "kvsim": __version__,
            "Model": f"{model.hub}: {model.source}; {model.date}" if model else request.model,
            "Kernels": load_coefficients().package,
        },
        texts={
            "Answer as JSON": json.dumps(answer, indent=1),
            "Scenario that reproduces it": scenario,
            "Commands that replace estimates by measurements": "\n".join(plan.commands),
        },
    )
    yield Provenance(title=f"Data sheet of {card.title}", facts=card_facts(card), texts={})
