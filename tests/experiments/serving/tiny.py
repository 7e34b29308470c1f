"""A small scenario of serving, changed field by field."""

from __future__ import annotations

from typing import Any

from kvsim.errors import ScenarioError
from kvsim.experiments.serving.scenario import Serving
from kvsim.scenario.toml import validate

SMALL_ENGINE = {
    "block_size": 4,
    "num_gpu_blocks_override": 9,
    "max_model_len": 32,
    "max_num_batched_tokens": 16,
    "max_num_seqs": 2,
}
"""An engine of eight blocks that can be used, as a workload states it."""


def sessions(num_sessions: int, **means: float) -> dict[str, Any]:
    """Return the table of sessions to generate, all of whose lengths are these."""
    return {"num_sessions": num_sessions, **{name: {"mean": mean} for name, mean in means.items()}}


def tables(**changes: Any) -> dict[str, Any]:
    """Return the tables of a scenario file; a change is a dotted field with ``__`` for its dots; None leaves it out."""
    made: dict[str, Any] = {
        "schema_version": 1,
        "kind": "serving",
        "name": "tiny",
        "model": {"shape": "smollm2-135m"},
        "profile": {"path": "cpu-smollm2-135m"},
        "generated": {"num_sessions": 40, "prompt": {"mean": 100.0, "cv": 0.5}, "output": {"mean": 10.0, "cv": 0.5}},
        "arrivals": {"process": "poisson", "rate_hz": 0.5},
        "engine": {
            "block_size": 16,
            "max_model_len": 1024,
            "max_num_batched_tokens": 256,
            "max_num_seqs": 16,
            "num_gpu_blocks_override": 200,
        },
    }
    for field, value in changes.items():
        *outer, last = field.split("__")
        table = made
        for part in outer:
            table = table.setdefault(part, {})
        if value is None:
            table.pop(last, None)
        else:
            table[last] = value
    return made


def scenario(**changes: Any) -> Serving:
    """Return the scenario of these tables."""
    return validate(Serving, tables(**changes), where="tiny", error=ScenarioError)
