"""What is accessed, with no times of a machine in it: the trace file, its statistics, and a generator fitted to one."""

from kvsim.traces.base import MASS, AccessSource
from kvsim.traces.format import TraceFile, TraceWriter, open_trace
from kvsim.traces.header import Channel, TraceHeader, channel_of

__all__ = ["MASS", "AccessSource", "Channel", "TraceFile", "TraceHeader", "TraceWriter", "channel_of", "open_trace"]
