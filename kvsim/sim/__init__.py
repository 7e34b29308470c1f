"""When things happen: a discrete-event simulation of host thread, compute stream and the two copy engines."""

import importlib
from typing import Any

__all__ = ["Replay", "SimulationInput", "Timeline", "simulate_decode"]

_DECODE = {
    "Replay": "kvsim.sim.replay",
    "SimulationInput": "kvsim.sim.inputs",
    "Timeline": "kvsim.sim.timeline",
    "simulate_decode": "kvsim.sim.simulation",
}
"""Names that load when they are asked for: `kvsim.sim.serving` needs none of it."""


def __getattr__(name: str) -> Any:
    if name not in _DECODE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_DECODE[name]), name)
