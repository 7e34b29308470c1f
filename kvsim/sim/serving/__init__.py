"""A serving engine in simulated time, of elements that the caller wires: arrivals, engine, sink and monitor.

An element does one thing and knows its neighbours by what it calls: arrivals submit requests to the engine, the engine
hands what it did to the sink, and the sink says who is finished. No element but the engine sees the core.
"""

from kvsim.sim.serving.arrivals import Sessions
from kvsim.sim.serving.costs import StepCosts
from kvsim.sim.serving.model import Served, simulate_serving
from kvsim.sim.serving.tiers import TierSetup

__all__ = ["Served", "Sessions", "StepCosts", "TierSetup", "simulate_serving"]
