"""The experiments by name: one line each, from which its parts load when they are asked for.

A package of this room has the tree of its scenario files in `scenario`, `EXPERIMENT` in `experiment` and, where torch
is needed, `MEASUREMENT` in `measure`. Only the tree loads where a file is merely read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kvsim.errors import ResultError, ScenarioError
from kvsim.experiments.provenance import check_same_profile, compared_with_notes
from kvsim.experiments.types import Experiment, Job, Measurement, ignore
from kvsim.report.reading import reading
from kvsim.report.results import RunResult
from kvsim.scenario.file import AnyScenario, Overrides, ScenarioT, ScenarioText, parse_scenario, read_scenario
from kvsim.scenario.overrides import override_texts
from kvsim.scenario.toml import nearest

if TYPE_CHECKING:
    from kvsim.calibration.measure import CostTables
    from kvsim.report.comparison import Compared

DECODE = "decode"
"""The experiment of a scenario file without a `kind`."""

EXPERIMENTS: dict[str, str] = {
    DECODE: "kvsim.experiments.decode.scenario:Scenario",
    "prefix-blocks": "kvsim.experiments.prefix_blocks.scenario:PrefixBlocks",
    "prompt-cache": "kvsim.experiments.prompt_cache.scenario:PromptCacheScenario",
    "kv-on-off": "kvsim.experiments.kv_on_off.scenario:KvOnOff",
    "prompt-modules": "kvsim.experiments.prompt_modules.scenario:PromptModules",
    "serving": "kvsim.experiments.serving.scenario:Serving",
    "embedding-rows": "kvsim.experiments.embedding_rows.scenario:EmbeddingRows",
}
"""``package.scenario:Class`` of what a scenario file may contain, by the `kind` that the file gives."""

TABLES = {"predictors": "table.md", "max-context": "table.txt"}
"""Results that come from no scenario, by the `kind` of their summary, and the file that has their table."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedScenario:
    """A scenario as it was read from a file, and the experiment that runs it."""

    experiment: str
    """A name in `EXPERIMENTS`."""
    scenario: AnyScenario
    source: ScenarioText | None
    """None where it was made in Python."""
    overrides: tuple[str, ...]
    """As ``KEY=VALUE``."""

    @property
    def base_dir(self) -> Path | None:
        """Where relative paths of the scenario start, if not here: the folder of its file."""
        return None if self.source is None else self.source.path.parent

    @property
    def where(self) -> str:
        """What messages call it: its file, or else its name."""
        return self.scenario.name if self.source is None else str(self.source.path)

    def job(
        self, *, command: str = "", progress: Callable[[float], None] = ignore, recorded: Path | None = None
    ) -> Job:
        """Return what a run of the scenario needs besides it."""
        return Job(
            text="" if self.source is None else self.source.text,
            overrides=self.overrides,
            command=command,
            base_dir=self.base_dir,
            progress=progress,
            recorded=recorded,
        )

    def of_type(self, tree: type[ScenarioT], command: str) -> ScenarioT:
        """Return the scenario for a command that takes those of one experiment only.

        Raises
        ------
        ScenarioError
            If it is of another.
        """
        if not isinstance(self.scenario, tree):
            raise ScenarioError(
                f"{self.where}: kind: {command} is for scenarios of kind {_name_of(tree)!r}, found "
                f"{self.experiment!r}: use `kvsim run`"
            )
        return self.scenario


def load_scenario(path: Path, overrides: Overrides = ()) -> LoadedScenario:
    """Return the scenario in a file, read and validated once.

    Raises
    ------
    ScenarioError
        With a line for every error.
    """
    source = read_scenario(path)
    name = source.tables.get("kind", DECODE)
    if not isinstance(name, str) or name not in EXPERIMENTS:
        near = nearest(name, EXPERIMENTS) if isinstance(name, str) else f"; known are {', '.join(EXPERIMENTS)}"
        raise ScenarioError(f"{path}: kind: unknown experiment {name!r}{near}")
    scenario = parse_scenario(load_tree(name), source.tables, overrides, where=str(path))
    texts = tuple(override_texts(overrides))
    return LoadedScenario(experiment=name, scenario=scenario, source=source, overrides=texts)


def load_tree(name: str) -> type[AnyScenario]:
    """Return what a scenario file of one experiment may contain."""
    module, _, class_name = EXPERIMENTS[name].partition(":")
    tree = getattr(importlib.import_module(module), class_name)
    if not (isinstance(tree, type) and issubclass(tree, AnyScenario)):
        raise TypeError(f"{EXPERIMENTS[name]} is not a scenario")
    return tree


def load_experiment(name: str) -> Experiment[Any]:
    """Return what simulates and shows one experiment."""
    return _constant(name, "experiment", "EXPERIMENT", Experiment)


def simulate(loaded: LoadedScenario, job: Job) -> RunResult:
    """Simulate every cell of a scenario.

    Raises
    ------
    ScenarioError
        If recorded accesses are to be replayed and the experiment replays none.
    """
    experiment = load_experiment(loaded.experiment)
    if job.recorded is not None and not experiment.replays_recorded:
        raise ScenarioError(
            f"{loaded.where}: scenarios of {loaded.experiment} replay no recorded accesses, found {job.recorded}: "
            "leave out --trace"
        )
    return experiment.simulate(loaded.scenario, job)


def load_measurement(name: str) -> Measurement[Any]:
    """Return what runs one experiment on the real model; it loads torch."""
    return _constant(name, "measure", "MEASUREMENT", Measurement)


def _name_of(tree: type[AnyScenario]) -> str:
    return next(name for name in EXPERIMENTS if load_tree(name) is tree)


def all_cost_tables() -> tuple[CostTables, ...]:
    """Return what measures the costs of the experiments besides those of a decode step: for `kvsim calibrate`."""
    tables = [load_measurement(name).cost_tables for name in EXPERIMENTS]
    return tuple(table for table in tables if table is not None)


def _constant(name: str, module: str, constant: str, kind: type[_T]) -> _T:
    package = EXPERIMENTS[name].partition(":")[0].rpartition(".")[0]
    value = getattr(importlib.import_module(f"{package}.{module}"), constant)
    if not isinstance(value, kind):
        raise TypeError(f"{package}.{module}.{constant} is {type(value).__name__}, not {kind.__name__}")
    return value


def experiment_of(result: RunResult) -> str:
    """Return the name of the experiment that made a result.

    Raises
    ------
    ResultError
        If this kvsim has no such experiment.
    """
    name = str(result.summary.get("kind") or DECODE)
    if name in TABLES:
        raise ResultError(f"a result of kind {name!r} comes from no scenario: read {TABLES[name]} in its folder")
    if name not in EXPERIMENTS:
        raise ResultError(f"the result is of kind {name!r}, which this kvsim does not know{nearest(name, EXPERIMENTS)}")
    return name


def compare_results(simulated: RunResult, measured: RunResult) -> Compared:
    """Compare a simulated result with a measured one.

    Raises
    ------
    ResultError
        If the two are not of one scenario, or not one of each.
    """
    experiment = load_experiment(_experiment_of_both(simulated, measured))
    check_same_profile(simulated, measured)
    with reading("the results"):
        compared = experiment.compare(simulated, measured)
    if not compared.missed and compared.contents.get("counts_equal") is False:
        compared = replace(compared, missed=("counts equal",))
    return compared_with_notes(simulated, measured, compared)


def compare_out_of_sample(
    simulated: RunResult, measured: RunResult, in_sample: Mapping[str, Any] | None = None
) -> Compared:
    """Compare a result that was simulated on other accesses with a measured one; counts are not expected to be equal.

    Parameters
    ----------
    in_sample
        The figures that `compare_results` gives for the same cells, to be shown besides.

    Raises
    ------
    ResultError
        If the two have no cells in common, the accesses are the measured ones, or the experiment has no such
        comparison.
    """
    name = _experiment_of_both(simulated, measured)
    compare = load_experiment(name).compare_out_of_sample
    if compare is None:
        raise ResultError(f"results of {name} are compared in sample only: leave out --out-of-sample")
    check_same_profile(simulated, measured)
    with reading("the results"):
        compared = compare(simulated, measured, in_sample)
    return compared_with_notes(simulated, measured, compared)


def check_accesses(name: str, scenario: AnyScenario, place: Path) -> None:
    """Refuse a place that lacks the accesses of a cell, to be simulated out of sample.

    Raises
    ------
    TraceError
        Saying what is missing.
    ResultError
        If the experiment has no such comparison.
    """
    check = load_experiment(name).check_accesses
    if check is None:
        raise ResultError(f"scenarios of {name} are compared in sample only")
    check(scenario, place)


def _experiment_of_both(simulated: RunResult, measured: RunResult) -> str:
    names = experiment_of(simulated), experiment_of(measured)
    if names[0] != names[1]:
        raise ResultError(f"the results are of different experiments: {names[0]} and {names[1]}")
    return names[0]
