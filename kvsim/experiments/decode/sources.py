"""What the batches of a run read: traces opened and generators fitted once, and shared by cells that read the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.cells import Cell, Extent
from kvsim.policies.base import reads_speculation
from kvsim.profile.profile import SPECULATE
from kvsim.scenario.decode import Scenario
from kvsim.scenario.digest import file_digest
from kvsim.scenario.shapes import ModelShape
from kvsim.scenario.shipped import find_capture
from kvsim.sim import Replay
from kvsim.traces import GeneratorParameters, SyntheticSource, TraceFile, fit_generator, open_trace
from kvsim.traces.access.base import NEXT_LAYER, AccessSource
from kvsim.traces.access.repeated import Repeated

EXTRAPOLATED_STEPS = 64
"""Steps generated where an extrapolating scenario does not say how many."""


class Sources:
    """What the batches of a run read.

    Parameters
    ----------
    base_dir
        Where relative paths of the scenario start, if not here.
    find
        The trace to replay for a concrete scenario, in place of the one it names.
    """

    def __init__(self, base_dir: Path | None, find: Callable[[Scenario], Path] | None = None) -> None:
        self._base_dir = base_dir
        self._find = find
        self._files: dict[Path, TraceFile] = {}
        self._fits: dict[tuple[Path, int, str], GeneratorParameters] = {}
        self._latest: tuple[Hashable, Replay] | None = None

    def extent(self, scenario: Scenario, shape: ModelShape) -> Extent:
        """Return how long a run of a concrete scenario is, without making what it reads.

        Raises
        ------
        KvsimError
            If its trace cannot be read, is of another depth or has too few steps.
        """
        trace = scenario.trace
        file = self._open(self._path(scenario))
        if trace.extrapolate is not None:
            num_steps = num_steps_of(scenario, EXTRAPOLATED_STEPS)
            return Extent(context_tokens=trace.extrapolate.context_tokens + num_steps - 1, num_steps=num_steps)
        num_steps = num_steps_of(scenario, file.num_steps)
        _check_layers(scenario, shape, file)
        return Extent(context_tokens=int(file.context_tokens(num_steps - 1).max()), num_steps=num_steps)

    def of(self, cell: Cell, seed: int) -> Replay:
        """Return what the cell's batch reads; the latest one is kept for the next policy or budget."""
        key = self.reads(cell, seed)
        if self._latest is None or self._latest[0] != key:
            replay = Replay(
                self._make(cell, seed),
                cell.selector,
                channel=cell.scenario.selector.channel,
                page_tokens=cell.scenario.page_tokens,
                num_steps=cell.extent.num_steps,
            )
            self._latest = key, replay
        return self._latest[1]

    def reads(self, cell: Cell, seed: int) -> Hashable:
        """Return a key that is equal for batches that read the same; a recorded trace is the same whatever the seed."""
        scenario = cell.scenario
        drawn = seed if scenario.trace.extrapolate is not None else None
        choices = scenario.trace, scenario.page_tokens, scenario.selector, scenario.run.batch
        return (self._path(scenario), *choices, cell.shape, drawn)

    def check(self, cell: Cell) -> None:
        """Refuse a cell whose budget is too small, whose policy cannot be made, or whose trace lacks what it reads.

        Raises
        ------
        KvsimError
            With what would be right.
        """
        cell.check_budget()
        scenario = cell.scenario
        policy = cell.make_policy()
        if cell.selector is None:
            return
        file = self._open(self._path(scenario))
        file.scores(0, 0, scenario.selector.channel, scenario.page_tokens)
        if reads_speculation(policy):
            _check_speculation(scenario, file)
        if reads_speculation(policy) or scenario.selector.channel == NEXT_LAYER:
            cell.profile.segment(SPECULATE)

    def digests(self) -> dict[str, str]:
        """Return the digest of each trace that was opened, by file name: what a result says it replayed."""
        return {path.name: file_digest(path) for path in self._files}

    def texts(self) -> list[str]:
        """Return what was read where the opened traces were recorded, each text once."""
        return sorted({file.header.text for file in self._files.values()})

    def unopened(self) -> Sources:
        """Return the same without anything open, for another process; generators stay fitted."""
        fresh = Sources(self._base_dir, self._find)
        fresh._fits = self._fits
        return fresh

    def fit(self, scenario: Scenario) -> GeneratorParameters:
        """Return the generator fitted to the scenario's trace."""
        path = self._path(scenario)
        key = (path, scenario.page_tokens, scenario.selector.channel)
        if key not in self._fits:
            self._fits[key] = fit_generator(self._open(path), scenario.page_tokens, scenario.selector.channel)
        return self._fits[key]

    def _path(self, scenario: Scenario) -> Path:
        return self._find(scenario) if self._find else find_capture(scenario.trace.path, self._base_dir)

    def _open(self, path: Path) -> TraceFile:
        if path not in self._files:
            self._files[path] = open_trace(path)
        return self._files[path]

    def _make(self, cell: Cell, seed: int) -> AccessSource:
        scenario, trace = cell.scenario, cell.scenario.trace
        file = self._open(self._path(scenario))
        if trace.extrapolate is not None:
            return SyntheticSource(
                self.fit(scenario),
                context_tokens=trace.extrapolate.context_tokens,
                num_steps=cell.extent.num_steps,
                num_layers=cell.shape.num_layers,
                num_sequences=scenario.run.batch,
                page_tokens=scenario.page_tokens,
                seed=seed,
                middle_growth=trace.extrapolate.middle_growth,
            )
        return file if scenario.run.batch == file.num_sequences else Repeated(file, scenario.run.batch)


def num_steps_of(scenario: Scenario, available: int) -> int:
    """Return how many of the `available` steps a run takes; refuse more, and none after the warm-up."""
    trace = scenario.trace
    steps = trace.num_steps or available
    if steps > available and trace.extrapolate is None:
        raise ScenarioError(f"{scenario.name}: trace.num_steps is {steps}, the trace {trace.path} has {available}")
    if steps <= scenario.run.warmup_steps:
        raise ScenarioError(
            f"{scenario.name}: run.warmup_steps ({scenario.run.warmup_steps}) leaves none of {steps} steps to count"
        )
    return steps


def _check_speculation(scenario: Scenario, file: TraceFile) -> None:
    if scenario.trace.extrapolate is not None and scenario.selector.channel != NEXT_LAYER:
        raise ScenarioError(
            f"{scenario.name}: a policy reads {NEXT_LAYER}, which [trace.extrapolate] does not generate; replay a "
            "trace that holds it untouched"
        )
    file.scores(0, 0, NEXT_LAYER, scenario.page_tokens)


def _check_layers(scenario: Scenario, shape: ModelShape, file: TraceFile) -> None:
    if file.num_layers != shape.num_layers:
        raise ScenarioError(
            f"{scenario.name}: trace {scenario.trace.path} has {file.num_layers} layers, the model shape "
            f"{shape.num_layers}; a trace is replayed untouched unless [trace.extrapolate] asks for a "
            "generator fitted to it"
        )
