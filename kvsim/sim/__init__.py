"""When things happen: a discrete-event simulation of host thread, compute stream and the two copy engines."""

from kvsim.sim.inputs import SimulationInput
from kvsim.sim.replay import Replay
from kvsim.sim.simulation import simulate_decode
from kvsim.sim.timeline import Timeline

__all__ = ["Replay", "SimulationInput", "Timeline", "simulate_decode"]
