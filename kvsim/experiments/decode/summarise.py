"""From cells and their rows to ``summary.json``, alike for simulated and measured results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from kvsim.experiments.decode.cells import Cell
from kvsim.experiments.decode.outside_profile import beyond_profile, with_extrapolated
from kvsim.experiments.decode.report.summary import cell_figures
from kvsim.experiments.decode.report.verdict import verdict
from kvsim.policies.baselines import HfOffloaded
from kvsim.profile.profile import SEGMENTS
from kvsim.report.results import SUMMARY_SCHEMA_VERSION
from kvsim.scenario.decode import Scenario


def entry_of(cell: Cell, rows: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the cell's entry of ``summary.json`` from its rows; ``speed_vs_resident`` comes last, from all cells."""
    scenario, shape = cell.scenario, cell.shape
    batch = scenario.run.batch
    total_pages, held = cell.setting.grid.num_pages, cell.setting.capacity_pages
    if cell.is_peer:
        held = total_pages * min(HfOffloaded.device_layers, shape.num_layers) // shape.num_layers
    drops = cell.policy.attends == "resident"
    reads_scores = cell.policy.attends == "selection" or (drops and cell.policy.reads_selection)
    scores = reads_scores and scenario.selector.name != "full"
    summarised = scores and scenario.selector.channel != "mass"
    sizes = {
        "kv_device_bytes": held * cell.page_bytes,
        "weights_bytes": shape.packed_weights_bytes(scenario.model.quantisation),
        "activation_bytes": shape.activation_bytes(batch, scenario.run.prefill_chunk_tokens),
        "summary_bytes": shape.summary_bytes(total_pages) if summarised else 0,
    }
    device_bytes = sum(sizes.values())
    selector = "full" if not scores else f"{scenario.selector.name} by {scenario.selector.channel}"
    if drops:
        selector = f"what is kept by {scenario.selector.channel}" if scores else "what is kept"
    stays_on_device = drops or (cell.holds_everything and not cell.is_peer)
    return (
        {"policy": cell.choice.shown, "budget_pages": None if cell.holds_everything else held, **cell.swept}
        | {"context_tokens": cell.extent.context_tokens, "batch": batch, "page_tokens": scenario.page_tokens}
        | {"selector": selector}
        | cell_figures(rows, batch=batch, holds_everything=cell.holds_everything)
        | {"device_bytes": device_bytes, "fits": device_bytes <= cell.device_memory_bytes, **sizes}
        | {"page_link_s": page_link_s(cell)}
        | {"host_bytes": 0 if stays_on_device else total_pages * cell.page_bytes}
    )


def summarise(scenario: Scenario, cells: Sequence[Cell], summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``summary.json`` of a scenario from its cells' entries, which are completed: equal for equal scenarios."""
    _compare_to_resident(summaries, cells)
    profile = cells[0].profile
    device_memory_bytes = scenario.profile.device_memory or profile.device_memory_bytes
    return {
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "scenario": scenario.name,
        "scenario_hash": scenario.hash,
        "question": scenario.question,
        "profile": {"name": profile.name, "kind": profile.kind, "emulated_link": profile.link.emulated},
        "device_memory_bytes": device_memory_bytes,
        "swept": list(scenario.sweep),
        "cells": summaries,
        "verdict": [
            *verdict(summaries, device_memory_bytes, profile_kind=profile.kind, emulated_link=profile.link.emulated),
            *_of_the_accesses(scenario),
            *_of_the_decisions(cells),
        ],
    }


def _compare_to_resident(summaries: Sequence[dict[str, Any]], cells: Sequence[Cell]) -> None:
    """Add ``speed_vs_resident`` to each summary: that of the resident cell with the same swept values over its own."""
    resident_s = {
        tuple(cell.swept.values()): summary["tpot_p50_s"]
        for summary, cell in zip(summaries, cells, strict=True)
        if cell.choice.name == "resident"
    }
    for summary, cell in zip(summaries, cells, strict=True):
        base_s = resident_s.get(tuple(cell.swept.values()))
        summary["speed_vs_resident"] = None if base_s is None else base_s / summary["tpot_p50_s"]


def simulated_entry(cell: Cell, rows: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the cell's entry with what only a simulation knows of it."""
    return entry_of(cell, rows) | {"tpot_interval_s": tpot_interval_s(cell, rows)}


def simulated_summary(scenario: Scenario, cells: Sequence[Cell], entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``summary.json`` of a simulated scenario, with the costs that were extrapolated."""
    return with_extrapolated(summarise(scenario, cells, entries), beyond_profile(cells))


def tpot_interval_s(cell: Cell, rows: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    """Return a 90% interval of the mean simulated time per output token, from the profile's residuals.

    A sample of calibration is a whole step, so what spreads samples shifts whole steps of a run as well: the spread is
    taken as common to all steps of a run, beside the standard error of the table's medians, and the parts as
    independent of each other.
    """
    counted = ~rows["is_warmup"]
    profile = cell.profile
    tables = {f"{name}_s": profile.segments[name].device for name in SEGMENTS}
    tables |= {"stall_s": profile.link.to_device.transfer}
    if not cell.holds_everything:
        tables["decide_s"] = profile.policies[profile.decision_cost(cell.cost_name)]
    variance = 0.0
    for name, table in tables.items():
        mean_s = float(rows[name][counted].mean())
        spread_frac = (table.residual_high_frac - table.residual_low_frac) / 3.29  # a 90% interval in deviations
        variance += mean_s**2 * (table.median_error_frac**2 + spread_frac**2)
    mean_s = float(rows["step_s"][counted].mean())
    half_s = 1.645 * math.sqrt(variance)
    return mean_s - half_s, mean_s + half_s


def page_link_s(cell: Cell) -> float:
    """Return the time of one page over the link at its full bandwidth, as a back-of-the-envelope model takes it."""
    link = cell.profile.link
    if link.stated_bandwidth_bytes_per_s is not None:
        return cell.page_bytes / link.stated_bandwidth_bytes_per_s
    most = int(link.to_device.transfer.amounts[-1])
    return link.to_device.transfer_s(most, cell.page_bytes) / most


def _of_the_accesses(scenario: Scenario) -> list[str]:
    """Say so where the accesses were not recorded at this length and shape."""
    if scenario.trace.extrapolate is None:
        return []
    return [
        f"The accesses are extrapolated, not recorded: a generator fitted to {scenario.trace.path} made them for this "
        "length and shape, by the rules under [trace.extrapolate]. Trust the lost mass and the hit rates accordingly."
    ]


def _of_the_decisions(cells: Sequence[Cell]) -> list[str]:
    """Say so where the profile has no cost of a policy's own decisions."""
    by_table: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        table = None if cell.holds_everything else cell.profile.stands_in(cell.cost_name)
        if table is not None:
            by_table.setdefault((cell.profile.name, table), []).append(cell.cost_name)
    return [
        f"Profile {profile} has no cost of decisions of {', '.join(f'`{name}`' for name in dict.fromkeys(names))}: "
        f"taken as that of `{table}`. `kvsim policy time {names[0].partition('+')[0]} --profile ...` measures it."
        for (profile, table), names in by_table.items()
    ]
