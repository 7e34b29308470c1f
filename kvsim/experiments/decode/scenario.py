"""What a scenario of decode may contain: `kvsim.scenario.decode`, which policies and the engine read, too."""

from kvsim.scenario.decode import Scenario, load_scenario

__all__ = ["Scenario", "load_scenario"]
