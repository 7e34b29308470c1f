"""vLLM as the real engine: a process in an environment of its own, which speaks JSON; kvsim never imports it."""

from kvsim.engine.vllm.client import VllmProcess, VllmStep, VllmTrace
from kvsim.engine.vllm.environment import find_python

__all__ = ["VllmProcess", "VllmStep", "VllmTrace", "find_python"]
