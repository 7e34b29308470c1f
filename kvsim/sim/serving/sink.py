"""What became of each request: when it was scheduled first, when its tokens came, what it hit, when it was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kvsim.kernels.arrays import ArrayTable
from kvsim.kernels.serving import record as at
from kvsim.kernels.serving.record import admitted, delivered, preempted
from kvsim.policies.schedulers import Outcome, Step
from kvsim.types import FloatArray, IntArray

LEAST_GAP_S, GREATEST_GAP_S, GAP_WIDTH_FRAC = 1e-6, 1e6, 1e-3
"""The gaps that the histogram resolves, and how wide its bins are: no quantile is off by more than half of that."""


class Sink:
    """Collects times and counts by request; times are NaN for what has not happened.

    Parameters
    ----------
    finished
        Called with each request that is done, in order.
    """

    def __init__(self, num_requests: int, finished: Callable[[int], None]) -> None:
        self._finished = finished
        self.arrival_s: FloatArray = np.full(num_requests, np.nan)
        self.num_finished = 0
        num_bins = int(np.log(GREATEST_GAP_S / LEAST_GAP_S) / GAP_WIDTH_FRAC) + 1
        self._times: FloatArray = np.full((num_requests, at.NUM_COLUMNS), np.nan)
        self._times[:, at.LONGEST_GAP_S] = 0.0
        self._counts: IntArray = np.zeros((num_requests, at.NUM_COUNTS), dtype=np.int64)
        self._gaps: IntArray = np.zeros(num_bins, dtype=np.int64)
        arrays = {
            at.REQUESTS: self._times,
            at.COUNTS: self._counts,
            at.GAPS: self._gaps,
            at.SCALE: np.array([LEAST_GAP_S, GAP_WIDTH_FRAC]),
        }
        self._arrays = ArrayTable(at.NUM_ARRAYS, arrays)
        self.address = self._arrays.address
        """Of its arrays, for compiled code."""

    def arrived(self, request: int, now_s: float) -> None:
        """Note that a request entered the queue."""
        self.arrival_s[request] = now_s

    def scheduled(self, step: Step, now_s: float) -> None:
        """Note who left the queue and who was preempted."""
        for request, hit_tokens in step.admitted:
            admitted(self.address, request, hit_tokens, now_s)
        for request in step.preempted:
            preempted(self.address, request)

    def delivered(self, outcome: Outcome, now_s: float) -> None:
        """Note the tokens of a step, and pass on who is done."""
        delivered(self.address, outcome.sampled_array, now_s)
        self.finish(outcome.finished)

    def finish(self, requests: Sequence[int]) -> None:
        """Note and pass on who is done, in order."""
        for request in requests:
            self.num_finished += 1
            self._finished(request)

    @property
    def scheduled_s(self) -> FloatArray:
        """When each request first left the queue."""
        return self._times[:, at.SCHEDULED_S]

    @property
    def hit_tokens(self) -> IntArray:
        """Tokens that the prefix cache had when each request first left the queue."""
        return self._counts[:, at.HIT_TOKENS]

    @property
    def preemptions(self) -> IntArray:
        """How often each request lost its blocks."""
        return self._counts[:, at.PREEMPTIONS]

    @property
    def first_token_s(self) -> FloatArray:
        """When the first token of each request came."""
        return self._times[:, at.FIRST_S]

    @property
    def last_token_s(self) -> FloatArray:
        """When the latest token of each request came."""
        return self._times[:, at.LAST_S]

    @property
    def longest_gap_s(self) -> FloatArray:
        """The longest time between two tokens of each request."""
        return self._times[:, at.LONGEST_GAP_S]

    def gap_histogram(self) -> tuple[FloatArray, IntArray]:
        """Return times between tokens, all requests together: the middle of each bin, and how many fell into it."""
        used = np.flatnonzero(self._gaps)
        return LEAST_GAP_S * np.exp((used + 0.5) * GAP_WIDTH_FRAC), self._gaps[used]
