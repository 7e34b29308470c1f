"""What is accessed, with no times of a machine in it.

`open_trace` and `TraceWriter` read and write the file of docs/traces.md; `measure_statistics` says how sparse and how
predictable accesses are; `fit_generator` finds the parameters from which `SyntheticSource` makes more of the same, for
another context and another number of layers; `compare_statistics` checks it. A file and a generator are both an
`AccessSource`.
"""

import importlib
from typing import Any

from kvsim.traces.access.base import MASS, AccessSource
from kvsim.traces.access.compare import ComparedStatistic, compare_statistics
from kvsim.traces.access.file import TraceFile, TraceWriter, open_trace
from kvsim.traces.access.header import Channel, TraceHeader, channel_of
from kvsim.traces.access.statistics import TraceStatistics, measure_statistics

_GENERATOR = {
    "GeneratorParameters": "kvsim.traces.generator.parameters",
    "LayerParameters": "kvsim.traces.generator.parameters",
    "SyntheticSource": "kvsim.traces.generator.generate",
    "fit_generator": "kvsim.traces.generator.fit",
    "load_parameters": "kvsim.traces.generator.parameters",
    "write_parameters": "kvsim.traces.generator.parameters",
}
"""Names that load when they are asked for: they need scipy, which takes longer than all other modules of traces."""

__all__ = [
    "MASS",
    "AccessSource",
    "Channel",
    "ComparedStatistic",
    "GeneratorParameters",
    "LayerParameters",
    "SyntheticSource",
    "TraceFile",
    "TraceHeader",
    "TraceStatistics",
    "TraceWriter",
    "channel_of",
    "compare_statistics",
    "fit_generator",
    "load_parameters",
    "measure_statistics",
    "open_trace",
    "write_parameters",
]

__path__ = [*__path__, f"{__path__[0]}/../_moved/traces"]  # modules under the names that they had before 0.2


def __getattr__(name: str) -> Any:
    if name not in _GENERATOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_GENERATOR[name]), name)
