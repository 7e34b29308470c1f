"""Now kvsim.report.results and kvsim.profile.provenance."""

from kvsim._moved import forward

__getattr__ = forward("kvsim.results", "kvsim.report.results", "kvsim.profile.provenance")
