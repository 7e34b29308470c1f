"""The wiring of a cross-check's profile: one that holds on this machine, calibrated anew only where none does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kvsim.calibration import calibrate
from kvsim.calibration.measure import CostTables, Progress
from kvsim.calibration.staleness import judge, reasons_here
from kvsim.experiments.base import model_path_of
from kvsim.experiments.types import Job
from kvsim.policies import ADMISSIONS, POLICIES, PREFETCHERS
from kvsim.profile.choose import profile_in_file
from kvsim.profile.profile import load_profile, write_profile
from kvsim.scenario.decode import Scenario


def fresh_profile(
    scenario: Scenario,
    job: Job,
    folder: Path,
    *,
    recalibrate: bool | None,
    say: Callable[[str], None],
    progress: Progress,
    cost_tables: Sequence[CostTables] = (),
) -> Path | None:
    """Return the profile to use in place of the scenario's own; None where that one is to be used.

    A profile that was calibrated into `folder` before is asked first, then the scenario's own.

    Parameters
    ----------
    recalibrate
        True: calibrate whatever the profile says. False: use the scenario's own, and say where it is stale. None:
        calibrate where the profile is stale.
    say
        Called with one line that says why it calibrates or does not.

    Raises
    ------
    KvsimError
        If the model or the profile cannot be had.
    """
    own = profile_in_file(scenario.profile, base_dir=job.base_dir, where=scenario.name)
    shape = scenario.model.resolve(job.base_dir)
    if recalibrate is False:
        reasons = reasons_here(own, shape)
        if reasons:
            say(f"profile {own.name} is stale: {'; '.join(reasons)}; used all the same (--no-calibrate)")
        return None
    model = model_path_of(scenario, job.base_dir)
    file = (folder / f"profile-{scenario.name}.toml").resolve()
    if recalibrate is None:
        asked = load_profile(file) if file.is_file() else own
        verdict = judge(asked, shape, model)
        say(f"{verdict.line}; calibrating" if verdict.is_stale else verdict.line)
        if not verdict.is_stale:
            return file if asked is not own else None
    calibrated = calibrate(
        model,
        dtype=shape.dtype,
        device=own.device,
        name=f"{scenario.name}-{own.device}",
        bandwidth_bytes_per_s=own.link.stated_bandwidth_bytes_per_s,
        command=job.command,
        progress=progress,
        cost_tables=cost_tables,
        policies=_composed(scenario),
    )
    write_profile(calibrated, file)
    return file


def _composed(scenario: Scenario) -> list[tuple[str, dict[str, Any]]]:
    """Return the scenario's evictors with a built-in prefetcher or admission: what deciding costs there is their own.

    Bounds are left out, which need the future.
    """
    chosen = []
    for choice in scenario.run.policies:
        parts: dict[str, Any] = {
            part: choice.arguments[part] for part in ("prefetch", "admission") if part in choice.arguments
        }
        entries = [POLICIES.get(choice.name), *((PREFETCHERS | ADMISSIONS).get(str(name)) for name in parts.values())]
        if parts and all(entry is not None and not entry.is_oracle for entry in entries):
            chosen.append((choice.name, parts))
    return chosen
