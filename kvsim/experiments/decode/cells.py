"""The cells of a scenario, alike for simulator and engine: shape, profile, selector, budget and policy of each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.report.summary import cell_figures
from kvsim.experiments.decode.report.verdict import verdict
from kvsim.policies import budget as budgets
from kvsim.policies import cost_name, find_policy, make_policy
from kvsim.policies.base import Policy, Setting
from kvsim.policies.baselines import PEERS, HfOffloaded
from kvsim.policies.budget import budget_pages, make_selector, make_setting
from kvsim.policies.selectors import Selector
from kvsim.profile.other_shape import adapted
from kvsim.profile.profile import SEGMENTS, Profile, load_profile
from kvsim.report.results import SUMMARY_SCHEMA_VERSION
from kvsim.scenario.decode import Measure, PolicyChoice, Scenario, expand
from kvsim.scenario.shapes import SHAPES, ModelShape
from kvsim.scenario.shipped import find_profile
from kvsim.scenario.toml import nearest
from kvsim.types import PageGrid, pages_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination of the fields that vary."""

    scenario: Scenario
    """With the cell's own values and no sweep."""
    choice: PolicyChoice
    policy: type[Policy]
    shape: ModelShape
    profile: Profile
    swept: dict[str, Any]
    """The swept fields and the values they have here."""

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self.shape.page_bytes(self.scenario.page_tokens)

    @property
    def cost_name(self) -> str:
        """What a profile calls the cost of the policy's decisions."""
        return cost_name(self.choice.name, self.choice.arguments)

    @property
    def holds_everything(self) -> bool:
        """Whether the policy keeps every page on the device, whatever the budget."""
        return self.policy.holds == "everything"

    @property
    def is_peer(self) -> bool:
        """Whether this is somebody else's cache (`kvsim.policies.baselines`): measured, never simulated."""
        return self.choice.name in PEERS

    @property
    def selector(self) -> Selector | None:
        """What chooses pages; None where all are read and nothing is scored."""
        return None if self.scenario.selector.name == "full" else make_selector(self.scenario.selector)

    def setting(self, grid: PageGrid, context_tokens: int, seed: int) -> Setting:
        """Return what the policy is told of sizes; `context_tokens` is the longest context of the run."""
        return make_setting(self.scenario, self.shape, self.policy, grid, context_tokens=context_tokens, seed=seed)

    def make_policy(self, setting: Setting) -> Policy:
        """Return a fresh policy for one run."""
        return make_policy(self.choice.name, setting, self.choice.arguments)


def cells_of(scenario: Scenario, beside: Path | None = None) -> list[Cell]:
    """Return every cell of a scenario, in the file's order, policies innermost.

    Parameters
    ----------
    beside
        Where relative paths of the scenario start, if not here.
    """
    profiles: dict[Path, Profile] = {}
    cells = []
    for concrete in expand(scenario):
        path = find_profile(concrete.profile.path, beside)
        if path not in profiles:
            profiles[path] = load_profile(path)
        shape = resolve_shape(concrete)
        _check_profile(concrete, shape, profiles[path])
        profile = adapted(profiles[path], shape, concrete.model.quantisation, scale=concrete.profile.scale)
        swept = {key: _value_at(concrete, key) for key in scenario.sweep}
        cells += [
            Cell(
                scenario=concrete,
                choice=choice,
                policy=find_policy(choice.name),
                shape=shape,
                profile=profile,
                swept=swept,
            )
            for choice in concrete.run.policies
        ]
    return cells


def cell_at(scenario: Scenario, number: int, beside: Path | None = None) -> Cell:
    """Return one cell of a scenario by its place in `cells_of`, the ``cell`` of a result's rows.

    Raises
    ------
    ScenarioError
        If there is no such cell.
    """
    cells = cells_of(scenario, beside)
    if not 0 <= number < len(cells):
        raise ScenarioError(f"{scenario.name}: no cell {number}; there are {len(cells)}, 0 to {len(cells) - 1}")
    return cells[number]


def resolve_shape(scenario: Scenario) -> ModelShape:
    """Return the scenario's model shape, found by name and with its own dtype."""
    shape = scenario.model.shape
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise ScenarioError(f"{scenario.name}: model.shape: unknown shape {shape!r}{nearest(shape, SHAPES)}")
        shape = SHAPES[shape]
    return shape.model_copy(update={"dtype": scenario.model.dtype}) if scenario.model.dtype else shape


def measure_of(scenario: Scenario) -> Measure:
    """Return what to measure.

    Raises
    ------
    ScenarioError
        If the scenario does not say.
    """
    if scenario.measure is None:
        raise ScenarioError(
            f"{scenario.name}: no [measure] table; it says what to read and from which length on, as in "
            "measure.prompt_tokens = 2048"
        )
    return scenario.measure


def trace_name(scenario: Scenario) -> str:
    """Return the file name of the recorded trace that all policies and budgets of one context share."""
    measure = measure_of(scenario)
    selector = hashlib.blake2b(scenario.selector.model_dump_json().encode(), digest_size=3).hexdigest()
    packed = f"-{scenario.model.quantisation}" if scenario.model.quantisation else ""
    return f"{measure.prompt_tokens}x{scenario.run.batch}-page{scenario.page_tokens}-{selector}{packed}.kvtrace"


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
    return max(0.0, mean_s - half_s), mean_s + half_s


def page_link_s(cell: Cell) -> float:
    """Return the time of one page over the link at its full bandwidth, as a back-of-the-envelope model takes it."""
    link = cell.profile.link
    if link.stated_bandwidth_bytes_per_s is not None:
        return cell.page_bytes / link.stated_bandwidth_bytes_per_s
    most = int(link.to_device.transfer.amounts[-1])
    return link.to_device.transfer_s(most, cell.page_bytes) / most


def refuse_peers(scenario: Scenario) -> None:
    """Refuse a scenario that measures somebody else's cache, where it is to be simulated as well.

    Raises
    ------
    ScenarioError
        Naming it.
    """
    for choice in scenario.run.policies:
        if choice.name in PEERS:
            raise ScenarioError(
                f"{scenario.name}: policy {choice.name!r}: a peer to measure, not a policy: `kvsim measure` runs it, "
                "nothing simulates it; leave it out of run.policies here"
            )


def check_budget(cell: Cell, context_tokens: int) -> None:
    """Refuse a budget below the minimum.

    Raises
    ------
    CapacityError
        Naming the minimum.
    """
    budgets.check_budget(cell.scenario, cell.shape, cell.choice, context_tokens)


def summary_of(cell: Cell, rows: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return the cell's entry of ``summary.json`` from its rows; ``speed_vs_resident`` comes last, from all cells."""
    scenario, shape = cell.scenario, cell.shape
    context = int(rows["context_tokens"].max())
    batch = scenario.run.batch
    total_pages = pages_of(context, scenario.page_tokens) * shape.num_layers * batch
    held = total_pages if cell.holds_everything else min(budget_pages(scenario, shape, context), total_pages)
    if cell.is_peer:
        held = total_pages * min(HfOffloaded.device_layers, shape.num_layers) // shape.num_layers
    drops = cell.policy.attends == "resident"
    reads_scores = cell.policy.attends == "selection" or (drops and cell.policy.reads_selection)
    scores = reads_scores and scenario.selector.name != "full"
    summarised = scores and scenario.selector.channel != "mass"
    sizes = {
        "kv_device_bytes": held * cell.page_bytes,
        "weights_bytes": shape.packed_weights_bytes(scenario.model.quantisation),
        "activation_bytes": shape.activation_bytes(max(batch, scenario.run.prefill_chunk_tokens), batch),
        "summary_bytes": shape.summary_bytes(total_pages) if summarised else 0,
    }
    memory_bytes = scenario.profile.device_memory or cell.profile.device_memory_bytes
    device_bytes = sum(sizes.values())
    selector = "full" if not scores else f"{scenario.selector.name} by {scenario.selector.channel}"
    if drops:
        selector = f"what is kept by {scenario.selector.channel}" if scores else "what is kept"
    stays_on_device = drops or (cell.holds_everything and not cell.is_peer)
    return (
        {"policy": cell.choice.shown, "budget_pages": None if cell.holds_everything else held, **cell.swept}
        | {"context_tokens": context, "batch": batch, "page_tokens": scenario.page_tokens, "selector": selector}
        | cell_figures(rows, batch=batch, holds_everything=cell.holds_everything)
        | {"device_bytes": device_bytes, "fits": device_bytes <= memory_bytes, **sizes}
        | {"page_link_s": page_link_s(cell)}
        | {"host_bytes": 0 if stays_on_device else total_pages * cell.page_bytes}
    )


def summarise(scenario: Scenario, cells: list[Cell], summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return ``summary.json`` of a scenario from its cells' entries: equal for equal scenarios."""
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


def _of_the_accesses(scenario: Scenario) -> list[str]:
    """Say so where the accesses were not recorded at this length and shape."""
    if scenario.trace.extrapolate is None:
        return []
    return [
        f"The accesses are extrapolated, not recorded: a generator fitted to {scenario.trace.path} made them for this "
        "length and shape, by the rules under [trace.extrapolate]. Trust the lost mass and the hit rates accordingly."
    ]


def _of_the_decisions(cells: list[Cell]) -> list[str]:
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


def compare_to_resident(summaries: Sequence[dict[str, Any]], cells: Sequence[Cell]) -> None:
    """Add ``speed_vs_resident`` to each summary: that of the resident cell with the same swept values over its own."""
    resident_s = {
        tuple(cell.swept.values()): summary["tpot_p50_s"]
        for summary, cell in zip(summaries, cells, strict=True)
        if cell.choice.name == "resident"
    }
    for summary, cell in zip(summaries, cells, strict=True):
        base_s = resident_s.get(tuple(cell.swept.values()))
        summary["speed_vs_resident"] = None if base_s is None else base_s / summary["tpot_p50_s"]


def _check_profile(scenario: Scenario, shape: ModelShape, profile: Profile) -> None:
    may_differ = scenario.profile.allow_other_shape or scenario.profile.scale is not None
    if profile.shape != shape and not may_differ:
        raise ScenarioError(
            f"{scenario.name}: profile {profile.name!r} was made for another model shape ({profile.shape.num_layers} "
            f"layers of {profile.shape.hidden_size}, {profile.shape.dtype}; the scenario has {shape.num_layers} of "
            f"{shape.hidden_size}, {shape.dtype}); calibrate this shape, or set profile.allow_other_shape = true"
        )
    if profile.quantisation != scenario.model.quantisation and not may_differ:
        raise ScenarioError(
            f"{scenario.name}: profile {profile.name!r} was made with {profile.quantisation or 'unpacked'} weights, "
            f"model.quantisation is {scenario.model.quantisation or 'not given'}; calibrate such weights with "
            "--quantisation, or set profile.allow_other_shape = true"
        )


def _value_at(scenario: Scenario, key: str) -> Any:
    value: Any = scenario
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value
