"""The longest context of every cell before memory runs out: on a GPU by trying, on a CPU by bytes and one trial."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kvsim.calibration.machine import free_memory_bytes
from kvsim.calibration.random_inputs import check_llama, random_model
from kvsim.engine.model.loading import load_model_of
from kvsim.errors import CapacityError, ScenarioError
from kvsim.experiments.decode.cells import Cell, Extent, cells_of, measured_extent, resolve
from kvsim.experiments.decode.engine.inputs import check_peer, decode_input
from kvsim.experiments.decode.engine.probe import NUM_STEPS, ContextProbe, Need, need_of
from kvsim.experiments.decode.needs import check_needs
from kvsim.experiments.decode.report.max_context import Outcome, Record, Trial, max_context_text
from kvsim.experiments.provenance import manifest_of
from kvsim.experiments.types import Files, Job
from kvsim.policies.future import is_oracle
from kvsim.report.results import RunResult
from kvsim.scenario.decode import Scenario
from kvsim.scenario.shapes import ModelShape, Quantisation
from kvsim.scenario.shipped import near

USABLE_FRAC = 0.9
"""Share of the host memory that is free which trials may take: the system must never have to end us."""
CLOSE_FRAC = 0.01
"""How near two tried lengths come on a GPU, where each trial takes time; by bytes they come as near as a page."""
_CONTEXT_FIELDS = ("measure.prompt_tokens", "measure.num_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Longest:
    """Where a search ended."""

    tokens: int | None
    """None where no length works."""
    ran_out: Outcome
    """Why nothing longer works."""


def find_longest(
    ran_out: Callable[[int], Outcome | None],
    first: int,
    *,
    grain: int,
    close_frac: float,
    too_short: Callable[[Outcome], bool] = lambda _: False,
) -> Longest:
    """Return the longest length that works, by doubling from `first` and then by bisection.

    Parameters
    ----------
    ran_out
        What a length runs out of; None where it works.
    grain
        Lengths tried are multiples of it.
    close_frac
        The search ends where a length that works and one that does not are as near as this share, or as `grain`.
    too_short
        Outcomes by which a length is too short, not too long.

    Examples
    --------
    >>> find_longest(lambda n: "device memory" if n > 1000 else None, 64, grain=16, close_frac=0.0)
    Longest(tokens=992, ran_out='device memory')
    """
    low, high, best = 0, -(-first // grain) * grain, None
    why = ran_out(high)
    while why is None:
        low = best = high
        high *= 2
        why = ran_out(high)
    while high - low > max(grain, close_frac * low):
        middle = (low + high) // 2 // grain * grain
        reason = ran_out(middle)
        if reason is None:
            low = best = middle
        elif too_short(reason):
            low = middle
        else:
            high, why = middle, reason
    return Longest(tokens=best, ran_out=why)


def max_contexts(scenario: Scenario, job: Job) -> tuple[RunResult, Files]:
    """Return the longest context of every cell as a result, and its table; see `longest_contexts`."""
    records = longest_contexts(scenario, job)
    summary = {
        "schema_version": 1,
        "kind": "max-context",
        "scenario": f"{scenario.name}-max-context",
        "question": "How long may the context grow before memory runs out?",
        "cells": records,
    }
    manifest = manifest_of(scenario, job, seed=scenario.run.seed, is_measured=True)
    table = {"table.txt": (max_context_text(records) + "\n").encode()}
    return RunResult(summary=summary, rows={}, manifest=manifest), table


def longest_contexts(scenario: Scenario, job: Job) -> list[Record]:
    """Return a record for each cell of `scenario`; cells that differ in their context alone are one.

    Keys and values are random and nothing is prefilled. On a CUDA device each length is decoded to, and the device's
    memory really runs out; host memory is counted beforehand. On a CPU, whose device is emulated, all is counted by
    the engine's own sizes against the device memory that profile or scenario state and against the memory that is free
    here; then the longest is decoded to once.

    Raises
    ------
    KvsimError
        If the scenario does not say what to measure, its model cannot be had, a budget is too small for the scenario's
        own context, or a policy needs the future.
    """
    cells = _distinct(resolve(cells_of(scenario, measured_extent, base_dir=job.base_dir), _check))
    tries = _Trials(job.base_dir)
    records = []
    for cell in sorted(cells, key=lambda one: one.scenario.model.quantisation or ""):
        records.append(tries.record(cell))
        job.progress(1 / len(cells))
    return records


def _distinct(cells: list[Cell]) -> list[Cell]:
    """Return the cells without those that differ from an earlier one in their context alone."""
    distinct: dict[str, Cell] = {}
    for cell in cells:
        swept = {key: value for key, value in cell.swept.items() if key not in _CONTEXT_FIELDS}
        distinct.setdefault(json.dumps([cell.choice.model_dump(mode="json"), swept], default=str, sort_keys=True), cell)
    return list(distinct.values())


def _check(cell: Cell) -> None:
    scenario = cell.scenario
    cell.check_budget()
    cell.check_one_device("the search for the longest context")
    check_needs(cell, is_measured=True)
    if scenario.model.path is None:
        if scenario.model.quantisation:
            raise ScenarioError(f"{scenario.name}: no model.path; random weights are not packed")
        check_llama(cell.shape)
    if cell.is_peer:
        check_peer(cell)
    elif is_oracle(cell.make_policy()):
        raise ScenarioError(
            f"{scenario.name}: policy {cell.choice.shown!r} needs the future, which random contents do not have; it "
            "takes as much memory as any other with its budget: leave it out of run.policies here"
        )


def _at(cell: Cell, tokens: int) -> Cell:
    """Return the cell with a context that ends at `tokens`; a peer as a policy that keeps everything."""
    at = cell.with_extent(Extent(context_tokens=tokens, num_steps=NUM_STEPS))
    return at.with_policy("resident") if cell.is_peer else at


def _keeps_host_pages(cell: Cell) -> bool:
    return cell.is_peer or not (cell.holds_everything or cell.policy.attends == "resident")


class _Trials:
    """Searches cell by cell, with one model at a time."""

    def __init__(self, base_dir: Path | None) -> None:
        self._base_dir = base_dir
        self._loaded: tuple[tuple[str | None, Quantisation | None, ModelShape], ContextProbe] | None = None
        self._free_bytes = free_memory_bytes()
        """Before any model was loaded."""

    def record(self, cell: Cell) -> Record:
        """Search the longest context of a cell, decode to it, and return what it took."""
        scenario, is_cuda = cell.scenario, cell.profile.device == "cuda"
        longest = find_longest(
            lambda tokens: self._ran_out(cell, tokens),
            cell.extent.context_tokens,
            grain=scenario.page_tokens,
            close_frac=CLOSE_FRAC if is_cuda else 0.0,
            # A share of the context holds what must be held from some length on.
            too_short=lambda reason: reason == "budget" and scenario.budget.context_frac is not None,
        )
        tokens = longest.tokens
        record: dict[str, Any] = {
            "policy": cell.choice.shown,
            **{key: value for key, value in cell.swept.items() if key not in _CONTEXT_FIELDS},
            "batch": scenario.run.batch,
            "page_tokens": scenario.page_tokens,
            "max_context_tokens": tokens,
            "ran_out": longest.ran_out,
            "found_by": "trial" if is_cuda else "bytes",
            "device_limit_bytes": cell.device_memory_bytes,
            "host_free_bytes": self._free_bytes,
        }
        trial: Trial = {"was_run": False} if tokens is None else self._last(cell, tokens)
        return cast("Record", record | trial)  # no type knows the swept names

    def _last(self, cell: Cell, tokens: int) -> Trial:
        """Decode to the longest context, once more on a GPU, and return what that took."""
        need = self._need(cell, tokens)
        figures: Trial = {"host_bytes": need.host_bytes, "device_bytes": need.device_bytes, "was_run": False}
        if cell.profile.device == "cuda" or self._fits_now(cell, need):
            probe = self._probe(cell)
            figures["was_run"] = self._runs(cell, tokens)
            figures["model_positions"] = probe.positions
            figures["device_bytes"] = probe.peak_bytes() or need.device_bytes
            probe.release()
        if not cell.is_peer:  # whose pages are none
            figures |= {
                "weights_bytes": need.weights_bytes,
                "slots_bytes": need.slots_bytes,
                "summary_bytes": need.summary_bytes,
                "working_bytes": need.working_bytes,
            }
        return figures

    def _ran_out(self, cell: Cell, tokens: int) -> Outcome | None:
        """Return what a context of `tokens` runs out of; on a GPU by decoding to it."""
        is_cuda = cell.profile.device == "cuda"
        if cell.shape.learned_positions is not None and tokens > cell.shape.learned_positions:
            return "positions"
        if tokens <= NUM_STEPS:
            return "budget"
        try:
            _at(cell, tokens).check_budget()
        except CapacityError:
            return "budget"
        need = self._need(cell, tokens)
        least_bytes = need.weights_bytes if is_cuda else need.device_bytes
        if least_bytes > cell.device_memory_bytes:
            return "device memory"
        # An emulated device lies in host memory, too.
        on_host_bytes = need.host_bytes + need.scaffold_bytes + need.device_bytes
        taken_bytes = need.pinned_bytes if is_cuda else on_host_bytes
        if taken_bytes > USABLE_FRAC * self._free_bytes:
            return "host memory"
        return None if not is_cuda or self._runs(cell, tokens) else "device memory"

    def _need(self, cell: Cell, tokens: int) -> Need:
        return need_of(
            decode_input(_at(cell, tokens)),
            cell.shape,
            weights_bytes=cell.shape.packed_weights_bytes(cell.scenario.model.quantisation),
            keeps_host_pages=_keeps_host_pages(cell),
        )

    def _fits_now(self, cell: Cell, need: Need) -> bool:
        """Whether host memory still has room for a trial on a CPU: other programs may have taken some meanwhile."""
        loaded_bytes = need.weights_bytes if self._loaded is not None and self._loaded[0] == _key(cell) else 0
        taken_bytes = need.host_bytes + need.scaffold_bytes + need.device_bytes - loaded_bytes
        return taken_bytes <= (1 + USABLE_FRAC) / 2 * free_memory_bytes()

    def _runs(self, cell: Cell, tokens: int) -> bool:
        probe = self._probe(cell)
        probe.limit_device(cell.device_memory_bytes)
        return probe.fits(
            decode_input(_at(cell, tokens)),
            context_tokens=tokens,
            keeps_host_pages=_keeps_host_pages(cell),
            is_peer=cell.is_peer,
        )

    def _probe(self, cell: Cell) -> ContextProbe:
        """Return the probe with the cell's model, loaded where it is another than the last."""
        key = _key(cell)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # one model at a time
            model = _model(cell, self._base_dir)
            self._loaded = key, ContextProbe(model, cell.shape, mechanism=cell.profile.link.to_device.mechanism)
        return self._loaded[1]


def _key(cell: Cell) -> tuple[str | None, Quantisation | None, ModelShape]:
    return cell.scenario.model.path, cell.scenario.model.quantisation, cell.shape


def _model(cell: Cell, base_dir: Path | None) -> Any:
    """Return the scenario's model, or one of its shape with random weights where it names none."""
    scenario, device = cell.scenario, cell.profile.device
    if scenario.model.path is None:
        return random_model(cell.shape, cell.shape.num_layers, device)
    path = near(scenario.model.path, base_dir)
    packing = scenario.model.quantisation
    return load_model_of(cell.shape, path, device, quantisation=packing, where=scenario.name, takes_windows=True)[0]
