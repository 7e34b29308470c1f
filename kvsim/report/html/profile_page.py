"""The page of `kvsim profile show`: every cost as a curve over its raw samples, with its residuals and its source."""

from __future__ import annotations

from typing import Any

from kvsim.profile.profile import Machine, Profile
from kvsim.profile.tables import CostTable
from kvsim.report.html.cell_charts import scale_of, with_unit
from kvsim.report.html.charts import Chart, Trace, View, axis, dots, line, palette_looks, value_axis
from kvsim.report.html.page import Page, Provenance
from kvsim.report.html.tables import Table, own_columns
from kvsim.report.profile_figures import grid_of, is_curve, line_name, line_s, samples_of, shown_lines
from kvsim.units import format_bytes

_MAX_SAMPLES = 400
"""Raw samples drawn of a line; the profile has all."""


def profile_page(profile: Profile, *, command: str, path: str) -> Page:
    """Return the page of a profile."""
    tables = profile.tables()
    rows = [_row(name, table) for name, table in tables.items()]
    machine = _facts(profile.machine)
    sources = {name: table.source for name, table in tables.items() if table.source} | dict(profile.sources)
    facts = {
        "Kind": profile.kind,
        "Device": profile.machine.device,
        "Runtime": profile.runtime,
        "Device memory": format_bytes(profile.device_memory_bytes),
        "Date": str(profile.machine.date),
    }
    return Page(
        title=profile.name,
        kind="kvsim report: profile of costs",
        question="What does each segment of a step and each copy cost?",
        facts=facts,
        verdict=[_KINDS.get(profile.kind, f"The figures are {profile.kind}.")],
        tables=[Table(title="Costs", rows=rows, columns=own_columns(rows, tuple(rows[0])))],
        charts=[_chart(tables)],
        limitations=[
            "Costs are interpolated linearly between the points of a table, and hold within its range only.",
            *(["The link is emulated: its bandwidth is stated, not measured."] if profile.link.emulated else []),
        ],
        provenance=[
            Provenance(title="", facts={"Report": command, "File": path, **machine}, texts={}),
            *([Provenance(title="Sources", facts=sources, texts={})] if sources else []),
        ],
    )


_KINDS = {
    "measured": "Measured in place, on the machine named below.",
    "published": "Published figures, each with its source below; nobody measured them together on one machine.",
    "estimated": "Estimated from a data sheet and from kernels measured on other cards; the sources say which.",
}


def _facts(machine: Machine) -> dict[str, str]:
    facts = {}
    for name, value in machine.model_dump(exclude_none=True).items():
        text = ", ".join(" ".join(pair) for pair in value.items()) if isinstance(value, dict) else str(value)
        facts[name.replace("_", " ").capitalize()] = text
    return facts


def _row(name: str, table: CostTable) -> dict[str, Any]:
    times_s = [time_s for row in table.time_s for time_s in row]
    return {
        "cost": name,
        "over": table.amount,
        "least_amount": table.amounts[0],
        "greatest_amount": table.amounts[-1],
        "shortest_s": min(times_s),
        "longest_s": max(times_s),
        "samples": table.num_samples,
        "residual_low_frac": table.residual_low_frac if table.num_samples else None,
        "residual_high_frac": table.residual_high_frac if table.num_samples else None,
    }


def _chart(tables: dict[str, CostTable]) -> Chart:
    views = [View(name=name, **_curves(table)) for name, table in tables.items() if is_curve(table)]
    note = "Lines: the table, linear between its points. Dots: raw samples, where there are some."
    return Chart(title="Costs over their amounts", views=views, note=note, choice="Cost", height_pixels=460)


def _curves(table: CostTable) -> dict[str, Any]:
    lines = shown_lines(table)
    names = [line_name(table, fixed) for fixed in lines]
    looks = palette_looks(names)
    factor, unit = scale_of("time_s", [time_s for row in table.time_s for time_s in row])
    grid = grid_of(table)
    traces: list[Trace] = []
    values: list[float] = []
    for name, fixed in zip(names, lines, strict=True):
        times = [time_s / factor for time_s in line_s(table, fixed, grid)]
        traces += line(name, grid, times, looks[name])
        own = samples_of(table, fixed)[:_MAX_SAMPLES]
        values += times
        if own:
            samples = dots(name, [x for x, _ in own], [time_s / factor for _, time_s in own], looks[name])
            samples["marker"] |= {"size": 5, "opacity": 0.45}
            traces.append(samples)
    title = table.columns_are.replace("_", " ") if len(table.amounts) == 1 else table.amount
    layout = {"xaxis": axis(title, values=grid), "yaxis": value_axis(with_unit("time", unit), values)}
    return {"traces": traces, "layout": layout | {"hovermode": "closest"}}
