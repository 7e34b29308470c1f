"""Schedules that a measurement recorded, scheduled again step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvsim.errors import ResultError
from kvsim.experiments.serving.schedules.compare import first_difference
from kvsim.experiments.serving.schedules.replay import replay
from kvsim.experiments.serving.schedules.workload import read_workload

PATTERN = "schedule-*.json.gz"


def check_schedules(folder: Path) -> list[dict[str, Any]]:
    """Return for each recorded run its steps, and where ours differ: None where all are equal.

    Equal means requests and tokens in order, admissions and hits, preemptions, evictions, free blocks and finishes.

    Raises
    ------
    ResultError
        If the folder has no schedules.
    """
    files = sorted(folder.glob(PATTERN))
    if not files:
        raise ResultError(f"{folder}: no {PATTERN}; give a folder that `kvsim measure` wrote of such a scenario")
    entries = []
    for file in files:
        workload = read_workload(file)
        steps = workload.steps or ()
        entries.append(
            {"file": file.name, "steps": len(steps), "difference": first_difference(workload, replay(workload))}
        )
    return entries
