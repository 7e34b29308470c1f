"""Scenarios of every kind: which modules simulate, show, measure and compare one, by the `kind` that its file says.

A kind is a tree (what its files may say), a module with the functions of `Kind`, and one with that of `Measurable`,
which needs torch. All load when they are first asked for, the tree alone where a file is only read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from kvsim.errors import ResultError, ScenarioError
from kvsim.report.results import RunResult
from kvsim.scenario.file import AnyScenario, load
from kvsim.scenario.toml import nearest, read_toml

DECODE = "decode"
"""The kind of a scenario that does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindPlace:
    """Where the code of one kind is."""

    tree: str
    """``package.module:Class`` of what its files may say."""
    simulated: str
    """The module of this room that simulates, shows and compares."""
    measured: str
    """The module of this room that runs it for real."""


KINDS: dict[str, KindPlace] = {
    DECODE: KindPlace(
        tree="kvsim.scenario.decode:Scenario", simulated="decode.experiment", measured="decode.measurement"
    ),
    "prefix-blocks": KindPlace(
        tree="kvsim.experiments.prefix_blocks.scenario:PrefixBlocks",
        simulated="prefix_blocks.simulate",
        measured="prefix_blocks.measure",
    ),
    "prompt-cache": KindPlace(
        tree="kvsim.experiments.prompt_cache.scenario:PromptCacheScenario",
        simulated="prompt_cache.simulate",
        measured="prompt_cache.measure",
    ),
    "kv-on-off": KindPlace(
        tree="kvsim.experiments.kv_on_off.scenario:KvOnOff",
        simulated="kv_on_off.simulate",
        measured="kv_on_off.measure",
    ),
    "prompt-modules": KindPlace(
        tree="kvsim.experiments.prompt_modules.scenario:PromptModules",
        simulated="prompt_modules.simulate",
        measured="prompt_modules.measure",
    ),
    "embedding-rows": KindPlace(
        tree="kvsim.experiments.embedding_rows.scenario:EmbeddingRows",
        simulated="embedding_rows.simulate",
        measured="embedding_rows.measure",
    ),
}
"""Kinds by the name that a scenario file gives."""

TABLES = {"predictors": "table.md", "max-context": "table.txt"}
"""Results that no scenario's kind shows, by what their summary calls them, and the file that has their table."""


def ignore(share: float) -> None:
    """Show no progress."""
    del share


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run is told besides its scenario."""

    text: str = ""
    """The scenario file as it was read, for the manifest."""
    command: str = ""
    """What the user typed, for the manifest."""
    beside: Path | None = None
    """Where relative paths of the scenario start, if not here."""
    progress: Callable[[float], None] = ignore
    """Called with the share of the work done since the last call."""
    recorded: Path | None = None
    """A measured result whose recorded accesses are to be replayed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Simulated beside measured, as a command shows and keeps it."""

    contents: Mapping[str, Any]
    """What ``--json`` prints."""
    text: str
    files: Mapping[str, bytes]
    """Files for a folder, by name."""
    missed: tuple[str, ...] = ()
    """Targets that the simulation missed, by name: `kvsim crosscheck --strict` ends with 1 where there are any."""


class Kind(Protocol):
    """What a module says to simulate and show one kind of scenario.

    It may have `warnings` besides (`warnings_of`), and `check_accesses` and `compare_out_of_sample` where it can be
    compared out of sample.
    """

    def check(self, scenario: Any, beside: Path | None) -> int:
        """Check what a run would find at fault before its first step, and return the number of cells."""

    def simulate(self, scenario: Any, job: Job) -> RunResult:
        """Simulate every cell."""

    def show(self, summary: Mapping[str, Any]) -> str:
        """Return the table and the verdict of a summary, simulated or measured."""

    def figures(self, result: RunResult) -> dict[str, bytes]:
        """Return the pictures of a result by file name, as PNG."""

    def compare(self, simulated: RunResult, measured: RunResult) -> Compared:
        """Put a simulated result beside a measured one of the same scenario."""


class Measurable(Protocol):
    """What a module says to run one kind of scenario for real."""

    def measure(self, scenario: Any, job: Job) -> tuple[RunResult, dict[str, bytes]]:
        """Run every cell on the real model; return the result and the files recorded on the way, by name."""


def kind_of(path: Path) -> str:
    """Return the kind of the scenario in a file.

    Raises
    ------
    ScenarioError
        If the file cannot be read or names no known kind.
    """
    found = read_toml(path, ScenarioError).get("kind", DECODE)
    if not isinstance(found, str) or found not in KINDS:
        near = nearest(found, KINDS) if isinstance(found, str) else ""
        raise ScenarioError(f"{path}: kind: unknown kind {found!r}{near}; known are {', '.join(KINDS)}")
    return found


def simulated_kind(name: str) -> Kind:
    """Return the module that simulates and shows scenarios of one kind."""
    return cast("Kind", importlib.import_module(f"kvsim.experiments.{KINDS[name].simulated}"))


def warnings_of(name: str, scenario: AnyScenario, beside: Path | None) -> list[str]:
    """Return what `check` has to say of a scenario without a fault, a line each; nothing for kinds that never have."""
    warnings: Callable[[AnyScenario, Path | None], list[str]] | None = getattr(simulated_kind(name), "warnings", None)
    return warnings(scenario, beside) if warnings is not None else []


def check_accesses(name: str, scenario: AnyScenario, place: Path) -> None:
    """Refuse a place that has not the accesses of all cells, to be simulated out of sample.

    Raises
    ------
    TraceError
        Saying what is missing.
    ResultError
        If the kind knows no such comparison.
    """
    check: Callable[[AnyScenario, Path], None] | None = getattr(simulated_kind(name), "check_accesses", None)
    if check is None:
        raise ResultError(f"scenarios of kind {name!r} are compared in sample only")
    check(scenario, place)


def measured_kind(name: str) -> Measurable:
    """Return the module that runs scenarios of one kind for real; it loads torch."""
    return cast("Measurable", importlib.import_module(f"kvsim.experiments.{KINDS[name].measured}"))


def load_scenario(path: Path, overrides: Sequence[str] = ()) -> tuple[str, AnyScenario]:
    """Return the kind of the scenario in a file, and the scenario.

    Raises
    ------
    ScenarioError
        With a line for every fault.
    """
    name = kind_of(path)
    module_name, _, class_name = KINDS[name].tree.partition(":")
    tree: type[AnyScenario] = getattr(importlib.import_module(module_name), class_name)
    return name, load(tree, path, overrides)


def kind_of_result(result: RunResult) -> str:
    """Return the kind of scenario that made a result.

    Raises
    ------
    ResultError
        If this kvsim knows no such kind.
    """
    name = str(result.summary.get("kind") or DECODE)
    if name in TABLES:
        raise ResultError(f"a result of kind {name!r} comes from no scenario: read {TABLES[name]} in its folder")
    if name not in KINDS:
        raise ResultError(
            f"the result is of kind {name!r}, which this kvsim does not know; known are {', '.join(KINDS)}"
        )
    return name


def compare_results(simulated: RunResult, measured: RunResult) -> Compared:
    """Put a simulated result beside a measured one.

    Raises
    ------
    ResultError
        If the two are not of one scenario, or not one of each.
    """
    found = simulated_kind(_kind_of_both(simulated, measured)).compare(simulated, measured)
    if not found.missed and found.contents.get("counts_equal") is False:
        return replace(found, missed=("counts equal",))
    return found


def compare_out_of_sample(
    simulated: RunResult, measured: RunResult, in_sample: Mapping[str, Any] | None = None
) -> Compared:
    """Put a result that was simulated on other accesses beside a measured one; counts are not expected to be equal.

    Parameters
    ----------
    in_sample
        What `compare` found of the same cells in sample, to be shown beside.

    Raises
    ------
    ResultError
        If the two have no cells in common, the accesses are the measured ones, or the kind knows no such comparison.
    """
    name = _kind_of_both(simulated, measured)
    compare: Callable[..., Compared] | None = getattr(simulated_kind(name), "compare_out_of_sample", None)
    if compare is None:
        raise ResultError(f"results of kind {name!r} are compared in sample only: leave out --out-of-sample")
    return compare(simulated, measured, in_sample)


def _kind_of_both(simulated: RunResult, measured: RunResult) -> str:
    kinds = kind_of_result(simulated), kind_of_result(measured)
    if kinds[0] != kinds[1]:
        raise ResultError(f"the results are of different kinds: {kinds[0]} and {kinds[1]}")
    return kinds[0]
