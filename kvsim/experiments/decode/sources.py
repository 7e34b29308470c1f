"""What the batches of a run read: traces opened and generators fitted once, and shared by cells that read the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path

from kvsim.errors import ScenarioError
from kvsim.experiments.decode.cells import Cell, Extent
from kvsim.experiments.decode.needs import check_needs
from kvsim.policies.base import reads_speculation
from kvsim.profile.profile import SPECULATE
from kvsim.scenario.decode import Scenario
from kvsim.scenario.digest import file_digest
from kvsim.scenario.shapes import ModelShape
from kvsim.scenario.shipped import find_capture, find_generator
from kvsim.sim.replay import Replay
from kvsim.traces.access.arrays import NAME, Trace
from kvsim.traces.access.base import MASS, NEXT_LAYER, AccessSource, RecordedAccesses
from kvsim.traces.access.ragged import Ragged
from kvsim.traces.access.registry import open_accesses
from kvsim.traces.access.repeated import Repeated
from kvsim.traces.generator.fit import fit_generator
from kvsim.traces.generator.generate import SyntheticSource
from kvsim.traces.generator.parameters import GeneratorParameters, load_parameters

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
    accesses
        Accesses in memory, in place of all traces.
    """

    def __init__(
        self,
        base_dir: Path | None,
        find: Callable[[Scenario], Path] | None = None,
        accesses: Trace | None = None,
    ) -> None:
        self._base_dir = base_dir
        self._find = find
        self.accesses = accesses
        self._files: dict[Path, RecordedAccesses] = {}
        self._fits: dict[tuple[Path, int, str], GeneratorParameters] = {}
        self._latest: tuple[Hashable, Replay] | None = None
        self._latest_source: tuple[Hashable, AccessSource] | None = None

    def extent(self, scenario: Scenario, shape: ModelShape) -> Extent:
        """Return how long a run of a concrete scenario is, without making what it reads.

        Raises
        ------
        KvsimError
            If its trace cannot be read, is of another depth or has too few steps.
        """
        trace = scenario.trace
        file = self._open(scenario)
        if trace.extrapolate is not None:
            num_steps = num_steps_of(scenario, EXTRAPOLATED_STEPS)
            lengths = trace.extrapolate.kinds(_num_generated(scenario), num_steps)
            last = max(steps for _, steps in lengths)
            if last < num_steps:
                raise ScenarioError(
                    f"{scenario.name}: trace.extrapolate.sequence_steps ends the last sequence after {last} of "
                    f"{num_steps} steps; set trace.num_steps to {last}"
                )
            longest = max(tokens + steps - 1 for tokens, steps in lengths)
            return Extent(context_tokens=longest, num_steps=num_steps)
        num_steps = num_steps_of(scenario, file.num_steps)
        _check_layers(scenario, shape, file)
        return Extent(context_tokens=int(file.context_tokens(num_steps - 1).max()), num_steps=num_steps)

    def of(self, cell: Cell, seed: int) -> Replay:
        """Return what the cell's batch reads; the latest one is kept for the next policy or budget."""
        key = self.reads(cell, seed)
        if self._latest is None or self._latest[0] != key:
            replay = Replay(
                self._source(cell, seed),
                cell.selector,
                channel=cell.scenario.selector.channel,
                page_tokens=cell.scenario.page_tokens,
                num_steps=cell.extent.num_steps,
            )
            self._latest = key, replay
        return self._latest[1]

    def reads(self, cell: Cell, seed: int) -> tuple[Hashable, ...]:
        """Return a key that is equal for batches that read the same, the selector last.

        A recorded trace is the same whatever the seed.
        """
        scenario = cell.scenario
        drawn = seed if scenario.trace.extrapolate is not None else None
        choices = scenario.trace, scenario.page_tokens, scenario.run.batch
        return (self._path(scenario), *choices, cell.shape.paged_layers, drawn, scenario.selector)

    def check(self, cell: Cell) -> None:
        """Refuse a cell whose budget is too small, whose policy cannot be made, or whose trace lacks what it reads.

        Raises
        ------
        KvsimError
            With what would be right.
        """
        cell.check_budget()
        check_needs(cell)
        scenario = cell.scenario
        policy = cell.make_policy()
        if cell.selector is None:
            return
        file = self._open(scenario)
        file.scores(0, 0, scenario.selector.channel, scenario.page_tokens)
        if reads_speculation(policy):
            _check_speculation(scenario, file)
        if reads_speculation(policy) or scenario.selector.channel == NEXT_LAYER:
            cell.profile.segment(SPECULATE)

    def digests(self) -> dict[str, str]:
        """Return the digest of each trace that was opened, by file name: what a result says it replayed."""
        if self.accesses is not None:
            return {NAME: self.accesses.digest}
        return {path.name: file_digest(path) for path in self._files}

    def texts(self) -> list[str]:
        """Return what was read where the opened traces were recorded, each text once."""
        files = self._files.values() if self.accesses is None else [self.accesses]
        return sorted({file.text for file in files})

    def unopened(self) -> Sources:
        """Return the same without anything open, for another process; generators stay fitted."""
        fresh = Sources(self._base_dir, self._find, self.accesses)
        fresh._fits = self._fits
        return fresh

    def fit(self, scenario: Scenario) -> GeneratorParameters:
        """Return the generator fitted to the scenario's trace: as it ships, or fitted now."""
        path = self._path(scenario)
        key = (path, scenario.page_tokens, scenario.selector.channel)
        if key not in self._fits:
            self._fits[key] = _shipped_fit(*key) or fit_generator(self._open(scenario), *key[1:])
        return self._fits[key]

    def _path(self, scenario: Scenario) -> Path:
        if self.accesses is not None:
            return Path(NAME)
        return self._find(scenario) if self._find else find_capture(scenario.trace.path, self._base_dir)

    def _open(self, scenario: Scenario) -> RecordedAccesses:
        if self.accesses is not None:
            return self.accesses
        path = self._path(scenario)
        if path not in self._files:
            self._files[path] = open_accesses(path)
        return self._files[path]

    def _source(self, cell: Cell, seed: int) -> AccessSource:
        """Return the accesses of a batch; the latest are kept for the next selector."""
        key = (*self.reads(cell, seed)[:-1], cell.scenario.selector.channel)
        if self._latest_source is None or self._latest_source[0] != key:
            self._latest_source = key, self._make(cell, seed)
        return self._latest_source[1]

    def _make(self, cell: Cell, seed: int) -> AccessSource:
        scenario, extrapolate = cell.scenario, cell.scenario.trace.extrapolate
        source: AccessSource = self._open(scenario)
        if extrapolate is not None:
            lengths = extrapolate.lengths(_num_generated(scenario), cell.extent.num_steps)
            generated = {
                tokens: SyntheticSource(
                    self.fit(scenario),
                    context_tokens=tokens,
                    num_steps=cell.extent.num_steps,
                    num_layers=cell.shape.paged_layers,
                    num_sequences=len(lengths),
                    page_tokens=scenario.page_tokens,
                    seed=seed,
                    middle_growth=extrapolate.middle_growth,
                )
                for tokens, _ in lengths
            }
            source = generated[lengths[0][0]]
            if len(set(lengths)) > 1 or lengths[0][1] < cell.extent.num_steps:
                source = Ragged([generated[tokens] for tokens, _ in lengths], [steps for _, steps in lengths])
        return source if scenario.run.batch == source.num_sequences else Repeated(source, scenario.run.batch)


def _num_generated(scenario: Scenario) -> int:
    """Return how many sequences an extrapolating scenario generates."""
    batch, extrapolate = scenario.run.batch, scenario.trace.extrapolate
    return min(extrapolate.sequences or batch, batch) if extrapolate is not None else batch


def _shipped_fit(path: Path, page_tokens: int, channel: str) -> GeneratorParameters | None:
    """Return the generator that ships for a capture, where it generates the channel."""
    file = find_generator(path, page_tokens)
    fitted = load_parameters(file) if file is not None else None
    return fitted if fitted is not None and channel in (MASS, fitted.channel) else None


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


def _check_speculation(scenario: Scenario, file: AccessSource) -> None:
    if scenario.trace.extrapolate is not None and scenario.selector.channel != NEXT_LAYER:
        raise ScenarioError(
            f"{scenario.name}: a policy reads {NEXT_LAYER}, which [trace.extrapolate] does not generate; replay a "
            "trace that holds it untouched"
        )
    file.scores(0, 0, NEXT_LAYER, scenario.page_tokens)


def _check_layers(scenario: Scenario, shape: ModelShape, file: AccessSource) -> None:
    if file.num_layers != shape.paged_layers:
        raise ScenarioError(
            f"{scenario.name}: trace {scenario.trace.path} has {file.num_layers} layers, the model shape "
            f"{shape.paged_layers} with pages; a trace is replayed untouched unless [trace.extrapolate] asks for a "
            "generator fitted to it"
        )
