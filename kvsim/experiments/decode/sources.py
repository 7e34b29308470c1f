"""What the batches of a run read: traces opened and generators fitted once, and shared by cells that read the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.cells import Cell, check_budget
from kvsim.policies.base import reads_speculation
from kvsim.profile.profile import SPECULATE
from kvsim.report.results import digest_of
from kvsim.scenario.decode import Scenario
from kvsim.scenario.shipped import find_capture
from kvsim.sim import Replay
from kvsim.traces import GeneratorParameters, SyntheticSource, fit_generator
from kvsim.traces.access.base import NEXT_LAYER, AccessSource, RecordedAccesses
from kvsim.traces.access.registry import open_accesses
from kvsim.traces.access.repeated import Repeated
from kvsim.types import PageGrid, pages_of

EXTRAPOLATED_STEPS = 64
"""Steps generated where an extrapolating scenario does not say how many."""


class BatchSources:
    """What the batches of a run read: traces opened and generators fitted once."""

    def __init__(self, beside: Path | None, recorded: Callable[[Scenario], Path] | None) -> None:
        self._beside = beside
        self._recorded = recorded
        self._files: dict[Path, RecordedAccesses] = {}
        self._fits: dict[tuple[Path, int, str], GeneratorParameters] = {}
        self._kept: tuple[Any, Replay] | None = None

    def of(self, cell: Cell, seed: int) -> Replay:
        """Return what the cell's batch reads; the last one asked for is kept for the next policy or budget."""
        scenario = cell.scenario
        key = self.reads(cell, seed)
        if self._kept is None or self._kept[0] != key:
            source = self._make(cell, self._path(scenario), seed)
            replay = Replay(
                source,
                cell.selector,
                channel=scenario.selector.channel,
                page_tokens=scenario.page_tokens,
                num_steps=num_steps_of(scenario, source.num_steps),
            )
            self._kept = key, replay
        return self._kept[1]

    def reads(self, cell: Cell, seed: int) -> Hashable:
        """Return what tells the batches that read the same; a recorded trace is the same whatever the seed."""
        scenario = cell.scenario
        drawn = seed if scenario.trace.extrapolate is not None else None
        return (
            self._path(scenario),
            scenario.trace,
            scenario.page_tokens,
            scenario.selector,
            scenario.run.batch,
            cell.shape,
            drawn,
        )

    def last_context(self, cell: Cell) -> int:
        """Return the longest context of the cell's run in tokens, without making what it reads."""
        trace = cell.scenario.trace
        if trace.extrapolate is not None:
            return trace.extrapolate.context_tokens + num_steps_of(cell.scenario, EXTRAPOLATED_STEPS) - 1
        file = self._open(self._path(cell.scenario))
        return int(file.context_tokens(num_steps_of(cell.scenario, file.num_steps) - 1).max())

    def digests(self) -> dict[str, str]:
        """Return the digest of each trace that was opened, by file name: what a result says it replayed."""
        return {path.name: digest_of(path.read_bytes()) for path in self._files}

    def texts(self) -> list[str]:
        """Return what was read where the opened traces were recorded, each text once."""
        return sorted({file.text for file in self._files.values()})

    def unopened(self) -> BatchSources:
        """Return the same without anything open, for another process; generators stay fitted."""
        fresh = BatchSources(self._beside, self._recorded)
        fresh._fits = self._fits
        return fresh

    def num_decisions(self, cell: Cell) -> int:
        """Return how often the cell's policy decides: a measure of the work."""
        scenario = cell.scenario
        available = EXTRAPOLATED_STEPS
        if scenario.trace.extrapolate is None:
            available = self._open(self._path(scenario)).num_steps
        return num_steps_of(scenario, available) * cell.shape.num_layers * scenario.run.repetitions

    def check(self, cell: Cell) -> None:
        """Refuse a cell whose budget is too small, whose policy cannot be made, or whose trace lacks what it reads."""
        context = self.last_context(cell)
        check_budget(cell, context)
        scenario = cell.scenario
        pages = pages_of(context, scenario.page_tokens)
        grid = PageGrid(num_sequences=scenario.run.batch, num_layers=cell.shape.num_layers, pages_per_layer=pages)
        policy = cell.make_policy(cell.setting(grid, context, scenario.run.seed))
        file = self._open(self._path(scenario))
        if cell.selector is not None:
            file.scores(0, 0, scenario.selector.channel, scenario.page_tokens)
            if reads_speculation(policy):
                _check_speculation(scenario, file)
            if reads_speculation(policy) or scenario.selector.channel == NEXT_LAYER:
                cell.profile.segment(SPECULATE)
        if scenario.trace.extrapolate is None:
            _check_layers(cell, file)

    def fit(self, scenario: Scenario) -> GeneratorParameters:
        """Return the generator fitted to the scenario's trace."""
        path = self._path(scenario)
        key = (path, scenario.page_tokens, scenario.selector.channel)
        if key not in self._fits:
            self._fits[key] = fit_generator(self._open(path), scenario.page_tokens, scenario.selector.channel)
        return self._fits[key]

    def _path(self, scenario: Scenario) -> Path:
        return self._recorded(scenario) if self._recorded else find_capture(scenario.trace.path, self._beside)

    def _open(self, path: Path) -> RecordedAccesses:
        if path not in self._files:
            self._files[path] = open_accesses(path)
        return self._files[path]

    def _make(self, cell: Cell, path: Path, seed: int) -> AccessSource:
        scenario, trace = cell.scenario, cell.scenario.trace
        file = self._open(path)
        if trace.extrapolate is not None:
            return SyntheticSource(
                self.fit(scenario),
                context_tokens=trace.extrapolate.context_tokens,
                num_steps=trace.num_steps or EXTRAPOLATED_STEPS,
                num_layers=cell.shape.num_layers,
                num_sequences=scenario.run.batch,
                page_tokens=scenario.page_tokens,
                seed=seed,
                middle_growth=trace.extrapolate.middle_growth,
            )
        _check_layers(cell, file)
        if scenario.run.batch == file.num_sequences:
            return file
        return Repeated(file, scenario.run.batch)


def _check_speculation(scenario: Scenario, file: AccessSource) -> None:
    if scenario.trace.extrapolate is not None and scenario.selector.channel != NEXT_LAYER:
        raise ScenarioError(
            f"{scenario.name}: a policy reads {NEXT_LAYER}, which [trace.extrapolate] does not generate; replay a "
            "trace that holds it untouched"
        )
    file.scores(0, 0, NEXT_LAYER, scenario.page_tokens)


def _check_layers(cell: Cell, file: AccessSource) -> None:
    if file.num_layers != cell.shape.num_layers:
        raise ScenarioError(
            f"{cell.scenario.name}: trace {cell.scenario.trace.path} has {file.num_layers} layers, the model shape "
            f"{cell.shape.num_layers}; a trace is replayed untouched unless [trace.extrapolate] asks for a "
            "generator fitted to it"
        )


def num_steps_of(scenario: Scenario, available: int) -> int:
    """Return how many of the `available` steps a run takes; refuse more, and none behind the warm-up."""
    trace = scenario.trace
    steps = trace.num_steps or available
    if steps > available and trace.extrapolate is None:
        raise ScenarioError(f"{scenario.name}: trace.num_steps is {steps}, the trace {trace.path} has {available}")
    if steps <= scenario.run.warmup_steps:
        raise ScenarioError(
            f"{scenario.name}: run.warmup_steps ({scenario.run.warmup_steps}) leaves none of {steps} steps to count"
        )
    return steps
