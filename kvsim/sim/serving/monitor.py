"""How many requests run and wait and how full the cache is, over time, in bounded memory."""

from __future__ import annotations

import numpy as np

from kvsim.kernels.arrays import ArrayTable
from kvsim.kernels.serving import monitor as at
from kvsim.kernels.serving.monitor import note_arrival, note_idle, note_step, write_state
from kvsim.policies.schedulers import StepWork
from kvsim.types import FloatArray, IntArray

COLUMNS = ("time_s", "running", "waiting", "used_blocks", "tokens", "prefill_tokens", "steps")
"""The time, three integrals over it, and three counts since the start."""

_MOST_SAMPLES = 4096


class Monitor:
    """Keeps integrals over time and counts, and samples of them; when there are too many, every other one is dropped.

    The difference of two samples is exact for the time between them, however many were dropped.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        """Blocks that can be used."""
        self._numbers: IntArray = np.zeros(at.NUM_NUMBERS, dtype=np.int64)
        self._numbers[[at.NUM_BLOCKS, at.FREE_BLOCKS]] = num_blocks
        self._numbers[[at.STRIDE, at.UNTIL_SAMPLE, at.NUM_SAMPLES]] = 1  # the first sample is all zeros
        self._samples: FloatArray = np.zeros((_MOST_SAMPLES + 1, at.WIDTH))
        arrays = {at.NUMBERS: self._numbers, at.TIMES: np.zeros(at.NUM_TIMES), at.SAMPLES: self._samples}
        self._arrays = ArrayTable(at.NUM_ARRAYS, arrays)
        self.address = self._arrays.address
        """Of its arrays, for compiled code."""

    @property
    def num_steps(self) -> int:
        """Steps that computed something."""
        return int(self._numbers[at.NUM_STEPS])

    @property
    def peak_running(self) -> int:
        """Most requests that ran at a time."""
        return int(self._numbers[at.PEAK_RUNNING])

    @property
    def peak_waiting(self) -> int:
        """Most requests that waited at a time."""
        return int(self._numbers[at.PEAK_WAITING])

    @property
    def peak_used_blocks(self) -> int:
        """Most blocks that were held at a time."""
        return int(self._numbers[at.PEAK_USED])

    def arrived(self, now_s: float) -> None:
        """Note that one more request waits."""
        note_arrival(self.address, now_s)

    def step(self, now_s: float, work: StepWork, running: int, waiting: int, free_blocks: int) -> None:
        """Note a step as it begins."""
        note_step(self.address, now_s, work.requests, work.tokens, work.prefill_tokens, running, waiting, free_blocks)

    def idle(self, now_s: float, free_blocks: int) -> None:
        """Note that nothing runs or waits from now on."""
        note_idle(self.address, now_s, free_blocks)

    def samples(self) -> FloatArray:
        """Return the samples so far and the present state, ``[num_samples, len(COLUMNS)]``."""
        num_samples = int(self._numbers[at.NUM_SAMPLES])
        write_state(self.address, num_samples)
        return self._samples[: num_samples + 1].copy()
