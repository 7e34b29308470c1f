"""When things happen: a discrete-event simulation of host thread, compute stream and the two copy engines."""

from kvsim.sim.replay import Replay
from kvsim.sim.simulation import SimulationInput, simulate_decode

__all__ = ["Replay", "SimulationInput", "simulate_decode"]
