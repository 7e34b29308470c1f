"""Now kvsim.scenario.shapes."""

from kvsim._moved import forward

__getattr__ = forward("kvsim.models", "kvsim.scenario.shapes")
