"""The wiring: a scenario in, a result out. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvsim.assets import find_capture, find_profile
from kvsim.errors import CapacityError, ScenarioError
from kvsim.hardware import Profile, load_profile
from kvsim.models import SHAPES, ModelShape
from kvsim.policies import find_policy, make_policy
from kvsim.policies.base import Policy, Setting
from kvsim.report.summary import cell_figures
from kvsim.report.verdict import verdict
from kvsim.results import RunResult, make_manifest
from kvsim.scenario import PolicyChoice, Scenario, SelectorChoice, expand
from kvsim.selectors import Full, Selector, Threshold, TopK
from kvsim.sim import Replay, SimulationInput, simulate_decode
from kvsim.strict import nearest
from kvsim.traces import SyntheticSource, TraceFile, fit_generator, open_trace
from kvsim.traces.base import AccessSource
from kvsim.traces.batch import Repeated
from kvsim.types import pages_of
from kvsim.units import format_bytes

SUMMARY_SCHEMA_VERSION = 1
EXTRAPOLATED_STEPS = 64
"""Steps generated where an extrapolating scenario does not say how many."""

Progress = Callable[[float], None]
"""Called with the share of the work done since the last call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One combination of the fields that vary: everything that its simulation needs."""

    scenario: Scenario
    choice: PolicyChoice
    policy: type[Policy]
    shape: ModelShape
    profile: Profile
    swept: dict[str, Any]

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self.shape.page_bytes(self.scenario.page_tokens)


def simulate(
    scenario: Scenario,
    *,
    beside: Path | None = None,
    text: str = "",
    command: str = "",
    progress: Progress | None = None,
) -> RunResult:
    """Simulate every cell of `scenario` and return its rows, summary and manifest.

    Parameters
    ----------
    beside
        The scenario file's folder: where the files that it names are looked for too.
    text
        The scenario file as it was read, for the manifest.
    command
        What the user typed, for the manifest.

    Raises
    ------
    KvsimError
        If the profile, the trace, a policy or the budget does not fit the scenario.
    """
    cells, sources = _prepare(scenario, beside)
    tables: list[dict[str, NDArray[Any]]] = []
    summaries: list[dict[str, Any]] = []
    done: dict[tuple[Any, ...], dict[str, NDArray[Any]]] = {}
    for number, cell in enumerate(cells):
        key = _same_run(cell)
        if key not in done:
            done[key] = _simulate_cell(cell, sources, lambda share: progress(share / len(cells)) if progress else None)
        elif progress:
            progress(1 / len(cells))
        rows = done[key]
        size = rows["step"].size
        named: dict[str, NDArray[Any]] = {
            "cell": np.full(size, number, dtype=np.int64),
            "policy": np.array([cell.choice.shown] * size, dtype=object),
        }
        tables.append(named | rows)
        summaries.append(_summary(cell, rows))
    _compare_to_resident(summaries, cells)
    profile = cells[0].profile
    device_memory_bytes = scenario.profile.device_memory or profile.device_memory_bytes
    summary = {
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "scenario": scenario.name,
        "scenario_hash": scenario.hash,
        "question": scenario.question,
        "profile": {"name": profile.name, "kind": profile.kind, "emulated_link": profile.link.emulated},
        "device_memory_bytes": device_memory_bytes,
        "swept": list(scenario.sweep),
        "cells": summaries,
        "verdict": verdict(
            summaries, device_memory_bytes, profile_kind=profile.kind, emulated_link=profile.link.emulated
        ),
    }
    columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    manifest = make_manifest(scenario_text=text, scenario_hash=scenario.hash, seed=scenario.run.seed, command=command)
    return RunResult(summary=summary, rows=columns, manifest=manifest)


def check_scenario(scenario: Scenario, *, beside: Path | None = None) -> int:
    """Refuse what `simulate` would refuse, without simulating, and return the number of cells.

    Raises
    ------
    KvsimError
        As `simulate` does.
    """
    cells, sources = _prepare(scenario, beside)
    for cell in cells:
        _input(cell, sources.of(cell, cell.scenario.run.seed), cell.scenario.run.seed)
    return len(cells)


def _prepare(scenario: Scenario, beside: Path | None) -> tuple[list[Cell], _Sources]:
    cells = [cell for concrete in expand(scenario) for cell in _cells(scenario, concrete, beside)]
    sources = _Sources(beside)
    for cell in cells:
        _check_budget(cell, sources.of(cell, cell.scenario.run.seed))
    return cells, sources


def _cells(whole: Scenario, concrete: Scenario, beside: Path | None) -> list[Cell]:
    shape = resolve_shape(concrete)
    profile = load_profile(find_profile(concrete.profile.path, beside))
    _check_profile(concrete, shape, profile)
    swept = {key: _value_at(concrete, key) for key in whole.sweep}
    return [
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


def resolve_shape(scenario: Scenario) -> ModelShape:
    """Return the scenario's model shape, found by name and with its own dtype."""
    shape = scenario.model.shape
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise ScenarioError(f"{scenario.name}: model.shape: unknown shape {shape!r}{nearest(shape, SHAPES)}")
        shape = SHAPES[shape]
    return shape.model_copy(update={"dtype": scenario.model.dtype}) if scenario.model.dtype else shape


def make_selector(choice: SelectorChoice) -> Selector:
    """Return the selector that `choice` describes."""
    if choice.name == "full" or choice.k_pages is None:
        return Full()
    if choice.name == "top-k":
        return TopK(k_pages=choice.k_pages, sink_pages=choice.sink_pages, recent_pages=choice.recent_pages)
    assert choice.threshold is not None  # the scenario's validator
    return Threshold(
        threshold=choice.threshold,
        max_k_pages=choice.k_pages,
        sink_pages=choice.sink_pages,
        recent_pages=choice.recent_pages,
    )


def budget_pages(scenario: Scenario, shape: ModelShape, context_tokens: int) -> int:
    """Return the device slots of the whole batch that the scenario's budget buys."""
    budget, batch = scenario.budget, scenario.run.batch
    if budget.pages_per_layer is not None:
        return budget.pages_per_layer * shape.num_layers * batch
    if budget.bytes is not None:
        return budget.bytes // shape.page_bytes(scenario.page_tokens)
    assert budget.context_frac is not None  # the scenario's validator
    per_layer = math.ceil(budget.context_frac * pages_of(context_tokens, scenario.page_tokens))
    return per_layer * shape.num_layers * batch


def minimum_pages(scenario: Scenario, shape: ModelShape, policy: type[Policy], context_tokens: int) -> int:
    """Return the smallest budget of the whole batch: the largest selection of a (step, layer), and what is pinned.

    A policy that reads everything needs the next layer's pages besides. With a pool a layer, each must hold the
    largest selection.
    """
    batch, total = scenario.run.batch, pages_of(context_tokens, scenario.page_tokens)
    reads_all = policy.attends == "everything" or scenario.selector.name == "full"
    largest = total if reads_all else make_selector(scenario.selector).max_pages(total)
    pinned = min(total, scenario.selector.sink_pages + scenario.selector.recent_pages + 1)
    if scenario.budget.partition == "per_layer":
        return largest * shape.num_layers * batch
    at_once = min(shape.num_layers, 2 if policy.attends == "everything" else 1)
    return batch * (at_once * largest + (shape.num_layers - at_once) * min(pinned, largest))


def _check_budget(cell: Cell, replay: Replay) -> None:
    scenario = cell.scenario
    if cell.policy.holds == "everything":
        return
    context = _last_context(replay)
    have = budget_pages(scenario, cell.shape, context)
    least = minimum_pages(scenario, cell.shape, cell.policy, context)
    if have < least:
        per_layer = math.ceil(least / (cell.shape.num_layers * scenario.run.batch))
        raise CapacityError(
            f"{scenario.name}: budget of {have} pages ({format_bytes(have * cell.page_bytes)}) is below the minimum of "
            f"policy {cell.choice.shown!r} at {context} tokens: {least} pages "
            f"({format_bytes(least * cell.page_bytes)}); "
            f"set budget.pages_per_layer to at least {per_layer}"
        )


def _check_profile(scenario: Scenario, shape: ModelShape, profile: Profile) -> None:
    if profile.shape != shape and not scenario.profile.allow_other_shape:
        raise ScenarioError(
            f"{scenario.name}: profile {profile.name!r} was made for another model shape ({profile.shape.num_layers} "
            f"layers of {profile.shape.hidden_size}, {profile.shape.dtype}; the scenario has {shape.num_layers} of "
            f"{shape.hidden_size}, {shape.dtype}); calibrate this shape, or set profile.allow_other_shape = true"
        )


class _Sources:
    """The access sources of a run, opened and fitted once."""

    def __init__(self, beside: Path | None) -> None:
        self._beside = beside
        self._files: dict[Path, TraceFile] = {}
        self._fits: dict[tuple[Path, int, str], Any] = {}
        self._made: dict[tuple[Any, ...], Replay] = {}

    def of(self, cell: Cell, seed: int) -> Replay:
        """Return what the cell's batch reads; the last one asked for is kept for the next policy or budget."""
        scenario = cell.scenario
        key = (scenario.trace, scenario.page_tokens, scenario.selector, scenario.run.batch, seed)
        if key not in self._made:
            source = self._make(cell, seed)
            replay = Replay(
                source,
                None if scenario.selector.name == "full" else make_selector(scenario.selector),
                channel=scenario.selector.channel,
                page_tokens=scenario.page_tokens,
                num_steps=_num_steps(cell, source),
            )
            self._made = {key: replay}
        return self._made[key]

    def _make(self, cell: Cell, seed: int) -> AccessSource:
        scenario, trace = cell.scenario, cell.scenario.trace
        path = find_capture(trace.path, self._beside)
        if path not in self._files:
            self._files[path] = open_trace(path)
        file = self._files[path]
        if trace.extrapolate is not None:
            fit_key = (path, scenario.page_tokens, scenario.selector.channel)
            if fit_key not in self._fits:
                self._fits[fit_key] = fit_generator(file, scenario.page_tokens, scenario.selector.channel)
            return SyntheticSource(
                self._fits[fit_key],
                context_tokens=trace.extrapolate.context_tokens,
                num_steps=trace.num_steps or EXTRAPOLATED_STEPS,
                num_layers=cell.shape.num_layers,
                num_sequences=scenario.run.batch,
                page_tokens=scenario.page_tokens,
                seed=seed,
                middle_growth=trace.extrapolate.middle_growth,
            )
        if file.num_layers != cell.shape.num_layers:
            raise ScenarioError(
                f"{scenario.name}: trace {path.name} has {file.num_layers} layers, "
                f"the model shape {cell.shape.num_layers}; "
                "a trace is replayed untouched unless [trace.extrapolate] asks for a generator fitted to it"
            )
        if scenario.run.batch == file.num_sequences:
            return file
        return Repeated(file, scenario.run.batch)


def _num_steps(cell: Cell, source: AccessSource) -> int:
    scenario = cell.scenario
    steps = scenario.trace.num_steps or source.num_steps
    if steps > source.num_steps:
        raise ScenarioError(
            f"{scenario.name}: trace.num_steps is {steps}, the trace {scenario.trace.path} has {source.num_steps}"
        )
    if steps <= scenario.run.warmup_steps:
        raise ScenarioError(
            f"{scenario.name}: run.warmup_steps ({scenario.run.warmup_steps}) leaves none of {steps} steps to count"
        )
    return steps


def _last_context(replay: Replay) -> int:
    return int(replay.context_tokens(replay.num_steps - 1).max())


def _same_run(cell: Cell) -> tuple[Any, ...]:
    """Return what a cell's rows depend on: a policy that keeps everything does not depend on the budget."""
    scenario = cell.scenario
    if cell.policy.holds == "everything":
        scenario = scenario.model_copy(update={"budget": None})
    return (scenario.model_dump_json(exclude={"run": {"policies"}, "name": True}), cell.choice.model_dump_json())


def _simulate_cell(cell: Cell, sources: _Sources, progress: Progress) -> dict[str, NDArray[Any]]:
    repetitions = []
    for repetition in range(cell.scenario.run.repetitions):
        seed = cell.scenario.run.seed + repetition
        given = _input(cell, sources.of(cell, seed), seed)
        share = 1 / (cell.scenario.run.repetitions * given.replay.num_steps)
        rows: dict[str, NDArray[Any]] = dict(simulate_decode(given, lambda steps, share=share: progress(steps * share)))
        rows["repetition"] = np.full(given.replay.num_steps, repetition, dtype=np.int64)
        repetitions.append(rows)
    return {name: np.concatenate([rows[name] for rows in repetitions]) for name in repetitions[0]}


def _input(cell: Cell, replay: Replay, seed: int) -> SimulationInput:
    scenario, grid = cell.scenario, replay.grid
    context = _last_context(replay)
    holds_everything = cell.policy.holds == "everything"
    setting = Setting(
        grid=grid,
        capacity_pages=grid.num_pages if holds_everything else budget_pages(scenario, cell.shape, context),
        partition="shared" if holds_everything else scenario.budget.partition,
        prefetch_quota_pages=scenario.prefetch.quota_pages,
        seed=seed,
    )
    return SimulationInput(
        profile=cell.profile,
        replay=replay,
        policy=make_policy(cell.choice.name, setting, cell.choice.arguments),
        policy_name=cell.choice.name,
        setting=setting,
        page_bytes=cell.page_bytes,
        pinned_first_pages=scenario.selector.sink_pages,
        pinned_last_pages=scenario.selector.recent_pages,
        warmup_steps=scenario.run.warmup_steps,
        chunk_pages=scenario.prefetch.chunk_pages,
        window_transfers=scenario.prefetch.window_transfers,
    )


def _summary(cell: Cell, rows: dict[str, NDArray[Any]]) -> dict[str, Any]:
    scenario, shape = cell.scenario, cell.shape
    context = int(rows["context_tokens"].max())
    holds_everything = cell.policy.holds == "everything"
    batch = scenario.run.batch
    total_pages = pages_of(context, scenario.page_tokens) * shape.num_layers * batch
    on_device = total_pages if holds_everything else min(budget_pages(scenario, shape, context), total_pages)
    scores = cell.policy.attends == "selection" and scenario.selector.name != "full"
    summarised = scores and scenario.selector.channel != "mass"
    sizes = {
        "kv_device_bytes": on_device * cell.page_bytes,
        "weights_bytes": shape.weights_bytes,
        "activation_bytes": shape.activation_bytes(batch, scenario.run.prefill_chunk_tokens),
        "summary_bytes": shape.summary_bytes(total_pages) if summarised else 0,
    }
    memory_bytes = scenario.profile.device_memory or cell.profile.device_memory_bytes
    device_bytes = sum(sizes.values())
    selector = "full" if not scores else f"{scenario.selector.name} by {scenario.selector.channel}"
    figures = cell_figures(rows, batch=batch, holds_everything=holds_everything)
    return (
        {"policy": cell.choice.shown, "budget_pages": None if holds_everything else on_device, **cell.swept}
        | {"context_tokens": context, "batch": batch, "page_tokens": scenario.page_tokens, "selector": selector}
        | figures
        | {"device_bytes": device_bytes, "fits": device_bytes <= memory_bytes, **sizes}
        | {"host_bytes": 0 if holds_everything else total_pages * cell.page_bytes}
    )


def _compare_to_resident(summaries: list[dict[str, Any]], cells: list[Cell]) -> None:
    resident_s = {
        tuple(cell.swept.values()): summary["tpot_p50_s"]
        for summary, cell in zip(summaries, cells, strict=True)
        if cell.choice.name == "resident"
    }
    for summary, cell in zip(summaries, cells, strict=True):
        base_s = resident_s.get(tuple(cell.swept.values()))
        summary["speed_vs_resident"] = None if base_s is None else base_s / summary["tpot_p50_s"]


def _value_at(scenario: Scenario, key: str) -> Any:
    value: Any = scenario
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value
