"""What a step of vLLM costs: random schedules run on it step by step, and tables fitted to the time of each."""

from kvsim.calibration.serving.calibrate import calibrate_serving

__all__ = ["calibrate_serving"]
