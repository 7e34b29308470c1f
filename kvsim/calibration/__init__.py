"""What things cost on this machine: the engine's own segments and link, timed and fitted into a profile."""

from kvsim.calibration.measure import DEFAULT_BANDWIDTH_BYTES_PER_S, calibrate

__all__ = ["DEFAULT_BANDWIDTH_BYTES_PER_S", "calibrate"]
