"""What `import kvsim` offers to do: run, measure and compare, as the command line does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from kvsim.errors import ScenarioError
from kvsim.experiments.plug_ins import Policies, policy_choices
from kvsim.experiments.registry import (
    DECODE,
    LoadedScenario,
    compare_out_of_sample,
    compare_results,
    load_measurement,
    simulate,
)
from kvsim.experiments.registry import load_scenario as load_named
from kvsim.experiments.result import Comparison, Result, load_result
from kvsim.experiments.types import Job, ignore
from kvsim.policies.registry import PlugIns
from kvsim.profile.profile import Profile
from kvsim.profile.profile import load_profile as read_profile
from kvsim.scenario.decode import Scenario
from kvsim.scenario.file import AnyScenario, parse_scenario
from kvsim.scenario.overrides import override_texts
from kvsim.scenario.shipped import find_profile, find_scenario
from kvsim.traces.access.arrays import NAME as IN_MEMORY
from kvsim.traces.access.arrays import Trace

ScenarioLike: TypeAlias = AnyScenario | Path | str
"""A scenario, the file of one, or the name of one that ships with kvsim."""
Overrides: TypeAlias = Mapping[str, Any]
"""Values by dotted field, as in ``{"budget.pages_per_layer": 64}``; a list sweeps its field."""


def run(
    scenario: ScenarioLike,
    overrides: Overrides | None = None,
    *,
    policies: Policies | None = None,
    trace: Trace | Path | str | None = None,
    progress: Callable[[float], None] = ignore,
) -> Result:
    """Simulate a scenario.

    Parameters
    ----------
    policies
        What `run.policies` of a decode scenario is to be: names, ``package.module:Class``, classes, instances, or
        tables of ``name`` (any of these), ``arguments`` and ``label``. A class is made anew for every run; an instance
        is a template that every run copies.
    trace
        What is accessed, in place of the scenario's own: arrays (`Trace.from_arrays`), an access trace by name or file,
        or the folder of a measured result.
    progress
        Called with the share of the work done since the last call.

    Raises
    ------
    KvsimError
        With a line for every error.
    """
    loaded, job = _loaded(scenario, overrides, policies, trace, progress)
    return Result(run=simulate(loaded, job))


def measure(
    scenario: ScenarioLike,
    overrides: Overrides | None = None,
    *,
    policies: Policies | None = None,
    progress: Callable[[float], None] = ignore,
) -> Result:
    """Run a scenario on the real model; parameters as of `run`. It needs torch and transformers.

    Raises
    ------
    KvsimError
        With a line for every error.
    """
    loaded, job = _loaded(scenario, overrides, policies, None, progress)
    result, files = load_measurement(loaded.experiment).measure(loaded.scenario, job)
    return Result(run=result, files=files)


def compare(
    simulated: Result | Path | str, measured: Result | Path | str, *, out_of_sample: bool = False
) -> Comparison:
    """Compare a simulated result with a measured one, each given itself or by its folder.

    Parameters
    ----------
    out_of_sample
        The simulation replayed other accesses than were measured: counts have an error, too.

    Raises
    ------
    ResultError
        If the two are not of one scenario, or not one of each.
    """
    pair = [one if isinstance(one, Result) else load_result(one) for one in (simulated, measured)]
    compare_both = compare_out_of_sample if out_of_sample else compare_results
    return Comparison(compared=compare_both(pair[0].run, pair[1].run))


def load_scenario(scenario: Path | str, overrides: Overrides | None = None) -> AnyScenario:
    """Return the scenario in a file, or a shipped one by its name, with overrides applied.

    Raises
    ------
    ScenarioError
        With a line for every error.
    """
    return _resolved(scenario, _changes(overrides)).scenario


def load_profile(profile: Path | str) -> Profile:
    """Return the profile in a file, or a shipped one by its name.

    Raises
    ------
    CalibrationError
        If there is none, or it cannot be read.
    """
    return read_profile(find_profile(str(profile)))


def _loaded(
    scenario: ScenarioLike,
    overrides: Overrides | None,
    policies: Policies | None,
    trace: Trace | Path | str | None,
    progress: Callable[[float], None],
) -> tuple[LoadedScenario, Job]:
    """Return a scenario with everything that a call changes of it, and what its run needs besides."""
    changes = _changes(overrides)
    if not (trace is None or isinstance(trace, Trace | Path | str)):
        raise ScenarioError(
            f"trace should be a Trace, as Trace.from_arrays makes it, a name or a path, found a {type(trace).__name__}"
        )
    plug_ins: PlugIns = {}
    if policies is not None:
        changes["run.policies"], plug_ins = policy_choices(policies)
    recorded = Path(trace) if isinstance(trace, Path | str) and Path(trace).is_dir() else None
    accesses = trace if isinstance(trace, Trace) else None
    if accesses is not None:
        changes["trace.path"] = f"{IN_MEMORY}-{accesses.digest[:12]}"
    elif trace is not None and recorded is None:
        changes["trace.path"] = str(trace)
    loaded = _resolved(scenario, changes)
    if accesses is not None:
        loaded.of_type(Scenario, "a trace of arrays")
    job = loaded.job(recorded=recorded)
    return loaded, replace(job, accesses=accesses, plug_ins=plug_ins, progress=progress)


def _changes(overrides: Overrides | None) -> dict[str, Any]:
    """Return overrides as a file could hold them.

    Raises
    ------
    ScenarioError
        If they are no mapping by dotted field.
    """
    if overrides is None:
        return {}
    if not isinstance(overrides, Mapping) or not all(isinstance(key, str) for key in overrides):
        raise ScenarioError(
            f'overrides should be values by dotted field, as in {{"budget.pages_per_layer": 64}}, found {overrides!r}'
        )
    return {key: _plain(value) for key, value in overrides.items()}


def _resolved(scenario: ScenarioLike, changes: Overrides) -> LoadedScenario:
    if not isinstance(scenario, AnyScenario):
        return load_named(find_scenario(str(scenario)), changes)
    tables = scenario.model_dump(mode="python", exclude_unset=True)
    changed = parse_scenario(type(scenario), tables, changes, where=scenario.name)
    return LoadedScenario(
        experiment=scenario.value_at("kind") or DECODE,
        scenario=changed,
        source=None,
        overrides=tuple(override_texts(changes)),
    )


def _plain(value: Any) -> Any:
    """Return a value as a file could hold it: numpy's numbers as numbers, arrays and ranges as lists."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | range):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
