"""The profile of a cross-check: the scenario's own with the steps of vLLM timed anew on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kvsim.calibration.machine import describe_machine
from kvsim.calibration.measure import CostTables, Progress
from kvsim.calibration.serving import calibrate_serving
from kvsim.experiments.base import model_path_of, profile_of
from kvsim.experiments.serving.scenario import Serving
from kvsim.experiments.types import Job
from kvsim.profile.profile import write_profile


def fresh_profile(
    scenario: Serving,
    job: Job,
    folder: Path,
    *,
    recalibrate: bool | None,
    say: Callable[[str], None],
    progress: Progress,
    cost_tables: Sequence[CostTables] = (),
) -> Path | None:
    """Return the profile to use in place of the scenario's own; None where that one is to be used.

    Parameters
    ----------
    recalibrate
        True: time vLLM anew. False: use the scenario's own profile. None: time it unless `folder` has a profile of an
        earlier cross-check.
    say
        Called with a line on what is done and why.

    Raises
    ------
    KvsimError
        If vLLM, the model or the profile cannot be had.
    """
    del cost_tables
    if recalibrate is False or scenario.measure is None:
        return None
    file = (folder / f"profile-{scenario.name}.toml").resolve()
    if recalibrate is None and file.is_file():
        say(f"{file}: timed before; used again (--calibrate times vLLM anew)")
        return file
    own, threads = profile_of(scenario, job.base_dir), scenario.measure.threads
    say(f"timing steps of vLLM, into {file}")
    costs = calibrate_serving(
        str(Path(model_path_of(scenario, job.base_dir)).resolve()), num_threads=threads, progress=progress
    )
    machine = describe_machine(device=own.device, num_threads=threads, command=job.command)
    update = {"serving": costs, "name": file.stem, "machine": machine, "kind": "measured"}
    write_profile(own.model_copy(update=update), file)
    return file
