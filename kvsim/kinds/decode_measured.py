"""Decode scenarios run for real."""

from __future__ import annotations

from kvsim.kinds import Job
from kvsim.measure import measure as measure_decode
from kvsim.results import RunResult
from kvsim.scenario import Scenario


def measure(scenario: Scenario, job: Job) -> tuple[RunResult, dict[str, bytes]]:
    """Run every cell on the real model; see `kvsim.measure.measure`."""
    done = measure_decode(scenario, text=job.text, command=job.command, beside=job.beside, progress=job.progress)
    return done.result, done.traces
