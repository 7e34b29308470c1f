"""How many requests run and wait and how full the cache is, over time, in bounded memory."""

from __future__ import annotations

import numpy as np

from kvsim.policies.schedulers import StepWork
from kvsim.types import FloatArray

COLUMNS = ("time_s", "running", "waiting", "used_blocks", "tokens", "prefill_tokens", "steps")
"""The time, three integrals over it, and three counts since the start."""

_MOST_SAMPLES = 4096


class Monitor:
    """Keeps integrals over time and counts, and samples of them; when there are too many, every other one is dropped.

    The difference of two samples is exact for the time between them, however many were dropped.
    """

    __slots__ = (
        "_free_blocks",
        "_prefill_tokens",
        "_running",
        "_running_s",
        "_samples",
        "_stride",
        "_time_s",
        "_tokens",
        "_until_sample",
        "_used_s",
        "_waiting",
        "_waiting_s",
        "num_blocks",
        "num_steps",
        "peak_running",
        "peak_used_blocks",
        "peak_waiting",
    )

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        """Blocks that can be used."""
        self.num_steps = 0
        self.peak_running = self.peak_waiting = self.peak_used_blocks = 0
        self._free_blocks = num_blocks
        self._running = self._waiting = 0
        self._time_s = self._running_s = self._waiting_s = self._used_s = 0.0
        self._tokens = self._prefill_tokens = 0
        self._stride = self._until_sample = 1
        self._samples: list[tuple[float, ...]] = [(0.0,) * len(COLUMNS)]

    def arrived(self, now_s: float) -> None:
        """Note that one more request waits."""
        self._pass(now_s)
        self._waiting += 1
        self.peak_waiting = max(self.peak_waiting, self._waiting)

    def step(self, now_s: float, work: StepWork, running: int, waiting: int, free_blocks: int) -> None:
        """Note a step as it begins."""
        self._pass(now_s)
        self._running, self._waiting, self._free_blocks = running, waiting, free_blocks
        if running > self.peak_running:
            self.peak_running = running
        if self.num_blocks - free_blocks > self.peak_used_blocks:
            self.peak_used_blocks = self.num_blocks - free_blocks
        if work.requests:
            self.num_steps += 1
            self._tokens += work.tokens
            self._prefill_tokens += work.prefill_tokens
        self._until_sample -= 1
        if self._until_sample == 0:
            self._sample()

    def idle(self, now_s: float, free_blocks: int) -> None:
        """Note that nothing runs or waits from now on."""
        self._pass(now_s)
        self._running = self._waiting = 0
        self._free_blocks = free_blocks

    def samples(self) -> FloatArray:
        """Return the samples so far and the present state, ``[num_samples, len(COLUMNS)]``."""
        return np.array([*self._samples, self._state()])

    def _pass(self, now_s: float) -> None:
        elapsed_s = now_s - self._time_s
        if elapsed_s > 0:
            self._running_s += elapsed_s * self._running
            self._waiting_s += elapsed_s * self._waiting
            self._used_s += elapsed_s * (self.num_blocks - self._free_blocks)
            self._time_s = now_s

    def _sample(self) -> None:
        self._samples.append(self._state())
        if len(self._samples) > _MOST_SAMPLES:
            del self._samples[1::2]
            self._stride *= 2
        self._until_sample = self._stride

    def _state(self) -> tuple[float, ...]:
        integrals = (self._running_s, self._waiting_s, self._used_s)
        return (self._time_s, *integrals, self._tokens, self._prefill_tokens, self.num_steps)
