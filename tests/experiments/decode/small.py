"""A small simulated result, made through Python."""

from __future__ import annotations

from kvsim.experiments.decode.simulate import simulate
from kvsim.experiments.types import Job
from kvsim.report.results import RunResult
from kvsim.scenario.decode import load_scenario
from kvsim.scenario.shipped import find_scenario

SMALL = ["trace.num_steps=6", "run.warmup_steps=2", "run.policies=lru,stream", "budget.pages_per_layer=[20, 60]"]


def made(*overrides: str) -> RunResult:
    path = find_scenario("smollm2_cpu")
    scenario = load_scenario(path, overrides)
    return simulate(scenario, Job(text=path.read_text(encoding="utf-8"), overrides=overrides, base_dir=path.parent))


def times(result: RunResult) -> list[float]:
    return [cell["tpot_p50_s"] for cell in result.summary["cells"]]
