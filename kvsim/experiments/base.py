"""What experiments other than decode share: a model, a profile, the cells of a sweep, and the result they end in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from kvsim.errors import CalibrationError, ResultError, ScenarioError
from kvsim.experiments.provenance import manifest_of
from kvsim.experiments.types import Job
from kvsim.profile.choose import chosen_profile
from kvsim.profile.other_shape import adapted, call_problem, times_of, whose_times, with_times_of
from kvsim.profile.prefill import PrefillCost, prefill_cost
from kvsim.profile.profile import Profile, check_made_for
from kvsim.profile.tables import CostTable
from kvsim.report.results import SUMMARY_SCHEMA_VERSION, RunResult, joined
from kvsim.scenario.decode import MODEL_INPUTS, YOUNGER_OF_PROFILE, ModelChoice, ProfileChoice
from kvsim.scenario.file import AnyScenario, Role
from kvsim.scenario.shapes import ModelShape
from kvsim.scenario.shipped import near
from kvsim.types import Rows


class CacheScenario(AnyScenario):
    """A scenario of a cache other than that of decode: it names a model and what that costs somewhere."""

    younger: ClassVar[tuple[str, ...]] = ("exclude", *YOUNGER_OF_PROFILE)
    inputs: ClassVar[dict[str, Role]] = MODEL_INPUTS

    kind: str
    """The experiment; each tree allows its own name only."""
    model: ModelChoice
    profile: ProfileChoice


EntryT = TypeVar("EntryT", bound=Mapping[str, Any])
"""The entry of a cell in the summary: a `TypedDict` of its experiment."""


def shape_of(scenario: CacheScenario) -> ModelShape:
    """Return the model shape, with the scenario's own dtype; a path starts from here."""
    return scenario.model.resolve()


def profile_of(scenario: CacheScenario, beside: Path | None) -> Profile:
    """Return the profile, adapted to the scenario's model (`adapted`) where it was made for another.

    Raises
    ------
    CalibrationError
        If there is none, or it cannot be read.
    ScenarioError
        If it was made for another model shape and the scenario does not allow that.
    """
    shape, scale = shape_of(scenario), scenario.profile.scale
    profile = chosen_profile(scenario.profile, shape, base_dir=beside)
    if not (scenario.profile.allow_other_shape or scale):
        check_made_for(profile, shape, where=scenario.name)
    return adapted(profile, shape, profile.quantisation, scale=scale)


def call_problem_of(
    scenario: CacheScenario, profile: Profile, table: CostTable, calls: Iterable[tuple[int, int]], *, batch: int = 1
) -> str | None:
    """Return why the times of calls cannot be: another model's, and less than the profile allows (`call_problem`).

    Parameters
    ----------
    calls
        New tokens of each sequence and those cached before them, of each call.
    """
    shape = shape_of(scenario)
    for new_tokens, cached_tokens in calls:
        problem = call_problem(profile, shape, table, new_tokens=new_tokens, cached_tokens=cached_tokens, batch=batch)
        if problem is not None:
            return problem
    return None


def prefill_or_reason(
    scenario: CacheScenario, profile: Profile, *, chunk_tokens: int, longest_tokens: int
) -> PrefillCost | str:
    """Return the cost of prefill in chunks, or why times to first token are not known.

    Parameters
    ----------
    longest_tokens
        Of the prompts.
    """
    cost = prefill_cost(profile, chunk_tokens)
    if cost is None:
        return f"profile {profile.name} has no cost of prefill; {profile.advice}"
    call = (min(chunk_tokens, longest_tokens), 0)
    problems = (call_problem_of(scenario, profile, table, [call]) for table in (cost.calls, cost.chunks))
    return next(filter(None, problems), cost)


def check_calls(
    scenario: CacheScenario, profile: Profile, table: CostTable, calls: Iterable[tuple[int, int]], *, batch: int = 1
) -> None:
    """Refuse calls whose times cannot be; see `call_problem_of`.

    Raises
    ------
    CalibrationError
        With the time by the profile and what it cannot be less than.
    """
    problem = call_problem_of(scenario, profile, table, calls, batch=batch)
    if problem is not None:
        raise CalibrationError(f"{scenario.name}: {problem}")


def model_path_of(scenario: CacheScenario, beside: Path | None) -> str:
    """Return where the weights are: as the scenario says, or beside it where only that is there.

    Raises
    ------
    ScenarioError
        If the scenario does not say.
    """
    path = scenario.model.path
    if path is None:
        raise ScenarioError(f"{scenario.name}: no model.path; `make model` writes one to .cache/models")
    return near(path, beside)


def make_result(
    scenario: CacheScenario,
    job: Job,
    *,
    cells: Sequence[Mapping[str, Any]],
    rows: Sequence[Rows],
    verdict: Sequence[str],
    profile: Profile,
    seed: int = 0,
    is_measured: bool = False,
    extra: Mapping[str, Any] | None = None,
    tables: Mapping[str, Sequence[Rows]] | None = None,
) -> RunResult:
    """Return a result in the form that all results share.

    Parameters
    ----------
    rows, tables
        Columns of each cell, in the order of the cells.
    """
    summary: dict[str, Any] = {
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "kind": scenario.kind,
        "scenario": scenario.name,
        "scenario_hash": scenario.hash,
        "question": scenario.question,
        "swept": list(scenario.sweep),
        "cells": [dict(cell) for cell in cells],
        "verdict": list(verdict),
        "profile": {"name": profile.name, "kind": profile.kind, "emulated_link": profile.link.emulated},
    }
    summary = summary | {"is_measured": True} if is_measured else _with_times_of(scenario, job.base_dir, summary)
    return RunResult(
        summary=summary | dict(extra or {}),
        rows=stacked(rows),
        manifest=manifest_of(scenario, job, seed=seed, is_measured=is_measured),
        tables={name: stacked(own) for name, own in (tables or {}).items()},
    )


def extended(entry: EntryT, *more: Mapping[str, Any]) -> EntryT:
    """Return the entry of a cell with further fields: its values of swept ones, whose names only the scenario knows."""
    fields: dict[str, Any] = dict(entry)
    for part in more:
        fields |= part
    return cast("EntryT", fields)


def stacked(tables: Sequence[Rows], *, by: str = "cell") -> dict[str, NDArray[Any]]:
    """Return tables of equal columns as one, the number of its own in each row."""
    sizes = [next(iter(table.values())).size for table in tables]
    return {by: np.repeat(np.arange(len(tables)), sizes), **joined(tables)}


def recorded_file(folder: Path, name: str) -> Path:
    """Return a file that a measurement recorded.

    Raises
    ------
    ResultError
        If it is not there.
    """
    file = folder / name
    if not file.is_file():
        raise ResultError(f"{folder}: no {name}; give a folder that `kvsim measure` wrote of such a scenario")
    return file


def _with_times_of(scenario: CacheScenario, beside: Path | None, summary: Mapping[str, Any]) -> dict[str, Any]:
    noted: dict[str, str] = {}
    for cell in scenario.cells:
        if cell.profile.allow_other_shape or cell.profile.scale:
            profile = profile_of(cell, beside)
            note = whose_times(profile, shape_of(cell), profile.quantisation)
            if note is not None:
                noted[note] = times_of(profile)
    return with_times_of(summary, noted)
