"""What an experiment is: a frozen value of typed functions, one constant a package, which mypy checks where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from kvsim.policies.registry import PlugIns
from kvsim.report.results import RunResult
from kvsim.scenario.file import AnyScenario, ScenarioT
from kvsim.traces.access.arrays import Trace

if TYPE_CHECKING:
    from kvsim.calibration.measure import CostTables
    from kvsim.calibration.measure import Progress as StageProgress
    from kvsim.report.comparison import Compared
    from kvsim.report.html.parts import Parts

ScenarioT_contra = TypeVar("ScenarioT_contra", bound=AnyScenario, contravariant=True)

Files: TypeAlias = dict[str, bytes]
"""Files that belong to a result, by name."""


def ignore(share: float) -> None:
    """Show no progress."""
    del share


def no_warnings(scenario: AnyScenario, base_dir: Path | None) -> list[str]:
    """Return no warning."""
    del scenario, base_dir
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a run needs besides its scenario."""

    text: str = ""
    """The scenario file as it was read, for the manifest."""
    overrides: tuple[str, ...] = ()
    """``KEY=VALUE`` texts that changed the file's fields, for the manifest; the scenario has them already."""
    command: str = ""
    """The command line, for the manifest."""
    base_dir: Path | None = None
    """Where relative paths of the scenario start, if not here."""
    progress: Callable[[float], None] = ignore
    """Called with the share of the work done since the last call."""
    recorded: Path | None = None
    """A measured result, or other accesses, to replay in place of those that the scenario names."""
    accesses: Trace | None = None
    """Accesses in memory to replay in place of those that the scenario names."""
    plug_ins: PlugIns = field(default_factory=dict)
    """Policy classes and instances that cannot be imported by the names that the scenario gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment(Generic[ScenarioT]):
    """What one experiment does with its scenarios and results; needs no torch.

    Each package of `kvsim.experiments` has one, `EXPERIMENT` in its module `experiment`.
    """

    check: Callable[[ScenarioT, Path | None], int]
    """Check what a run would refuse before its first step, all of it, and return the number of cells."""
    simulate: Callable[[ScenarioT, Job], RunResult]
    """Simulate every cell."""
    show: Callable[[Mapping[str, Any]], str]
    """Return the table and the verdict of a summary, simulated or measured."""
    figures: Callable[[RunResult], Files]
    """Return the pictures of a result by file name, as PNG."""
    compare: Callable[[RunResult, RunResult], Compared]
    """Compare a simulated result with a measured one of the same scenario."""
    first_columns: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    """Return the columns that come first in a data frame of a summary's cells; what is swept where None."""
    parts: Callable[[RunResult], Parts] | None = None
    """Return what the page of a result shows, interactive figures among it.

    Where None, `kvsim.report.html.parts.own_parts`: all figures of the cells, and some of them drawn.
    """
    warnings: Callable[[ScenarioT, Path | None], list[str]] = no_warnings
    """Return what to know of a scenario that `check` accepts, a line each."""
    check_accesses: Callable[[ScenarioT, Path], None] | None = None
    """Refuse a place that lacks the accesses of a cell; None where nothing is compared out of sample."""
    compare_out_of_sample: Callable[[RunResult, RunResult, Mapping[str, Any] | None], Compared] | None = None
    """Compare what was simulated on other accesses than were measured.

    The last argument has the figures of the same cells in sample.
    """
    replays_recorded: bool = False
    """Whether `simulate` replays what a measured result recorded (`Job.recorded`), in place of the scenario's own."""
    check_simulated: Callable[[ScenarioT], None] | None = None
    """Refuse what can be measured and not simulated, before a cross-check measures it."""


class FreshProfile(Protocol[ScenarioT_contra]):
    """Returns the profile of this machine to use in place of the scenario's own, calibrated where that one is stale."""

    def __call__(
        self,
        scenario: ScenarioT_contra,
        job: Job,
        folder: Path,
        *,
        recalibrate: bool | None,
        say: Callable[[str], None],
        progress: StageProgress,
        cost_tables: Sequence[CostTables],
    ) -> Path | None:
        """Return None where the scenario's own profile is to be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement(Generic[ScenarioT]):
    """How one experiment runs on the real model: `MEASUREMENT` in its module `measure`, which loads torch."""

    measure: Callable[[ScenarioT, Job], tuple[RunResult, Files]]
    """Run every cell on the real model; return the result and the files recorded on the way, by name."""
    cost_tables: CostTables | None = None
    """Measures what the experiment needs besides the costs of a decode step, for `kvsim calibrate`."""
    max_contexts: Callable[[ScenarioT, Job], tuple[RunResult, Files]] | None = None
    """Find each cell's longest context; ``table.txt`` among the files has what is printed."""
    fresh_profile: FreshProfile[ScenarioT] | None = None
    """What a cross-check calibrates first; None where the scenario's own profile is always used."""
