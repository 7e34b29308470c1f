"""Decode scenarios run for real."""

from __future__ import annotations

from kvsim.experiments import Job
from kvsim.experiments.decode.measure import measure as measure_decode
from kvsim.report.results import RunResult
from kvsim.scenario.decode import Scenario


def measure(scenario: Scenario, job: Job) -> tuple[RunResult, dict[str, bytes]]:
    """Run every cell on the real model; see `kvsim.experiments.decode.measure.measure`."""
    done = measure_decode(scenario, text=job.text, command=job.command, beside=job.beside, progress=job.progress)
    return done.result, done.traces
