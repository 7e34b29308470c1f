"""A model, a card, a context: what fits, what each way of managing the KV cache would give, what to do.

A plan composes decode's simulation with estimated costs, so it imports `kvsim.experiments.decode`.
"""

from kvsim.experiments.plan.plan import plan
from kvsim.experiments.plan.result import Plan

__all__ = ["Plan", "plan"]
