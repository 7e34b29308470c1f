"""Which requests arrive and when: lengths and blocks from a trace or made up, times from the trace or a process."""

from kvsim.experiments.serving.traffic.make import Traffic, make_traffic

__all__ = ["Traffic", "make_traffic"]
