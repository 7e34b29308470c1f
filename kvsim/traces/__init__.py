"""What is accessed, with no times of a machine in it.

`open_trace` and `TraceWriter` read and write the file of docs/traces.md; `measure_statistics` says how sparse and how
predictable accesses are; `fit_generator` finds the parameters from which `SyntheticSource` makes more of the same, for
another context and another number of layers; `compare_statistics` checks it. A file and a generator are both an
`AccessSource`.
"""

from kvsim.traces.access.base import MASS, AccessSource
from kvsim.traces.access.compare import ComparedStatistic, compare_statistics
from kvsim.traces.access.file import TraceFile, TraceWriter, open_trace
from kvsim.traces.access.header import Channel, TraceHeader, channel_of
from kvsim.traces.access.statistics import TraceStatistics, measure_statistics
from kvsim.traces.generator.fit import fit_generator
from kvsim.traces.generator.generate import SyntheticSource
from kvsim.traces.generator.parameters import GeneratorParameters, LayerParameters, load_parameters, write_parameters

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
