"""What experiments other than decode share: a model, a profile, the cells of a sweep, and the result they end in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from kvsim.errors import ScenarioError
from kvsim.experiments.types import Job
from kvsim.profile.profile import Profile, check_made_for, load_profile
from kvsim.profile.provenance import make_manifest
from kvsim.report.results import SUMMARY_SCHEMA_VERSION, RunResult
from kvsim.scenario.decode import ModelChoice, ProfileChoice
from kvsim.scenario.file import AnyScenario
from kvsim.scenario.shapes import SHAPES, ModelShape
from kvsim.scenario.shipped import find_profile


class CacheScenario(AnyScenario):
    """A scenario of a cache other than that of decode: it names a model and what that costs somewhere."""

    kind: str
    """The experiment; each tree allows its own name only."""
    model: ModelChoice
    profile: ProfileChoice


ScenarioT = TypeVar("ScenarioT", bound=CacheScenario)


def shape_of(scenario: CacheScenario) -> ModelShape:
    """Return the model shape, found by name and with the scenario's own dtype."""
    shape = scenario.model.shape
    found = SHAPES[shape] if isinstance(shape, str) else shape
    return found.model_copy(update={"dtype": scenario.model.dtype}) if scenario.model.dtype else found


def profile_of(scenario: CacheScenario, beside: Path | None) -> Profile:
    """Return the profile.

    Raises
    ------
    CalibrationError
        If there is none, or it cannot be read.
    ScenarioError
        If it was made for another model shape and the scenario does not allow that.
    """
    profile = load_profile(find_profile(scenario.profile.path, beside))
    if not scenario.profile.allow_other_shape:
        check_made_for(profile, shape_of(scenario), where=scenario.name)
    return profile


def cells_of(scenario: ScenarioT) -> list[tuple[ScenarioT, dict[str, Any]]]:
    """Return one scenario for each cell with its swept values by their dotted field, in the file's order."""
    return [(cell, cell.swept_values(scenario.sweep)) for cell in scenario.cells]


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


def near(path: str, beside: Path | None) -> str:
    """Return `path`, or the same beside the scenario where only that is there."""
    if beside is not None and not Path(path).exists() and (beside / path).exists():
        return str(beside / path)
    return path


def make_result(
    scenario: CacheScenario,
    job: Job,
    *,
    cells: Sequence[Mapping[str, Any]],
    rows: Mapping[str, NDArray[Any]],
    verdict: Sequence[str],
    profile: Profile | None,
    seed: int = 0,
    is_measured: bool = False,
    extra: Mapping[str, Any] | None = None,
    tables: Mapping[str, dict[str, NDArray[Any]]] | None = None,
) -> RunResult:
    """Return a result in the form that all results share."""
    summary: dict[str, Any] = {
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "kind": scenario.kind,
        "scenario": scenario.name,
        "scenario_hash": scenario.hash,
        "question": scenario.question,
        "swept": list(scenario.sweep),
        "cells": [dict(cell) for cell in cells],
        "verdict": list(verdict),
    }
    if profile is not None:
        summary["profile"] = {
            "name": profile.name,
            "kind": profile.kind,
            "emulated_link": profile.link.emulated,
        }
    if is_measured:
        summary["is_measured"] = True
    manifest = make_manifest(scenario_text=job.text, scenario_hash=scenario.hash, seed=seed, command=job.command)
    return RunResult(summary=summary | dict(extra or {}), rows=dict(rows), manifest=manifest, tables=dict(tables or {}))
