"""From cells and their rows to ``summary.json``, alike for simulated and measured results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from numpy.typing import NDArray

from kvsim.experiments.decode.cells import Cell
from kvsim.experiments.decode.device_memory import bytes_of, device_rows, fullest, note_of
from kvsim.experiments.decode.entry import Entry
from kvsim.experiments.decode.generator_check import recall_bias_frac
from kvsim.experiments.decode.interval import tpot_interval_s
from kvsim.experiments.decode.outside_profile import beyond_profile, with_extrapolated
from kvsim.experiments.decode.report.summary import cell_figures
from kvsim.experiments.decode.report.verdict import verdict
from kvsim.policies.future import is_oracle
from kvsim.report.results import SUMMARY_SCHEMA_VERSION
from kvsim.scenario.decode import Scenario
from kvsim.traces.generator.parameters import GeneratorParameters


def entry_of(cell: Cell, rows: Mapping[str, NDArray[Any]]) -> Entry:
    """Return the cell's entry of ``summary.json`` from its rows; ``speed_vs_resident`` comes last, from all cells."""
    scenario = cell.scenario
    batch = scenario.run.batch
    total_pages = cell.setting.grid.num_pages
    drops = cell.policy.attends == "resident"
    reads_scores = cell.policy.attends == "selection" or (drops and cell.policy.reads_selection)
    scores = reads_scores and scenario.selector.name != "full"
    summarised = scores and scenario.selector.channel != "mass"
    devices = device_rows(cell, has_summaries=summarised)
    sizes, held = fullest(devices), sum(row["pages"] for row in devices)
    device_bytes = bytes_of(sizes)
    selector = "full" if not scores else f"{scenario.selector.name} by {scenario.selector.channel}"
    if drops:
        selector = f"what is kept by {scenario.selector.channel}" if scores else "what is kept"
    stays_on_device = drops or (cell.holds_everything and not cell.is_peer)
    entry: dict[str, Any] = {
        "policy": cell.choice.shown,
        "budget_pages": None if cell.holds_everything else held,
        **cell.swept,
        "context_tokens": cell.extent.context_tokens,
        "batch": batch,
        "page_tokens": scenario.page_tokens,
        "selector": selector,
        **cell_figures(rows, batch=batch, holds_everything=cell.holds_everything),
        "device_bytes": device_bytes,
        "fits": device_bytes <= cell.device_memory_bytes,
        **sizes,
        **({"devices": devices} if len(devices) > 1 else {}),
        "page_link_s": page_link_s(cell),
        "host_bytes": 0 if stays_on_device else total_pages * cell.page_bytes,
        **({"is_bound": True} if not cell.is_peer and is_oracle(cell.make_policy()) else {}),
    }
    return cast("Entry", entry)  # no type knows the swept names


def summarise(scenario: Scenario, cells: Sequence[Cell], summaries: Sequence[Entry]) -> dict[str, Any]:
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
        "cells": list(summaries),
        "verdict": [
            *verdict(summaries, device_memory_bytes, profile_kind=profile.kind, emulated_link=profile.link.emulated),
            *_of_the_accesses(scenario),
            *_of_the_decisions(cells),
            *dict.fromkeys(note for note in map(note_of, cells) if note is not None),
        ],
    }


def _compare_to_resident(summaries: Sequence[Entry], cells: Sequence[Cell]) -> None:
    """Add ``speed_vs_resident`` to each summary: that of the resident cell with the same swept values over its own."""
    resident_s = {
        tuple(cell.swept.values()): summary["tpot_p50_s"]
        for summary, cell in zip(summaries, cells, strict=True)
        if cell.choice.name == "resident"
    }
    for summary, cell in zip(summaries, cells, strict=True):
        base_s = resident_s.get(tuple(cell.swept.values()))
        summary["speed_vs_resident"] = None if base_s is None else base_s / summary["tpot_p50_s"]


def simulated_entry(cell: Cell, rows: Mapping[str, NDArray[Any]]) -> Entry:
    """Return the cell's entry with what only a simulation knows of it."""
    entry = entry_of(cell, rows)
    entry["tpot_interval_s"] = list(tpot_interval_s(cell, rows))
    return entry


def simulated_summary(
    scenario: Scenario,
    cells: Sequence[Cell],
    entries: Sequence[Entry],
    fit: Callable[[Scenario], GeneratorParameters],
) -> dict[str, Any]:
    """Return ``summary.json`` of a simulated scenario, with what was extrapolated: costs, and accesses.

    Parameters
    ----------
    fit
        Returns the generator fitted to the trace of a concrete scenario.
    """
    for cell, entry in zip(cells, entries, strict=True):
        if cell.scenario.trace.extrapolate is not None:
            entry["recall_bias_frac"] = recall_bias_frac(cell, fit(cell.scenario))
    return with_extrapolated(summarise(scenario, cells, entries), beyond_profile(cells), cells)


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
