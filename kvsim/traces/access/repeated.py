"""A batch from one recorded sequence: every sequence of the batch replays the same accesses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvsim.traces.access.base import AccessSource
from kvsim.types import BoolArray, IntArray, Scores


@dataclass(frozen=True, slots=True)
class Repeated:
    """`source` with its sequences repeated in turn up to `num_sequences`.

    The copies select the same pages at the same steps, so their misses come together: the contention for the link
    is the worst that this trace can cause, and the hit rate of a shared budget that of one sequence.
    """

    source: AccessSource
    num_sequences: int

    @property
    def num_steps(self) -> int:
        """Steps of the source."""
        return self.source.num_steps

    @property
    def num_layers(self) -> int:
        """Layers of the source."""
        return self.source.num_layers

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels of the source."""
        return self.source.channels

    def originals(self) -> IntArray:
        """Return the sequence of the source that each one repeats, ``[num_sequences]``."""
        return np.arange(self.num_sequences) % self.source.num_sequences

    def context_tokens(self, step: int) -> IntArray:
        """Return the context of each sequence, ``[num_sequences]``."""
        return self.source.context_tokens(step)[self.originals()]

    def scores(self, step: int, layer: int, channel: str, page_tokens: int) -> Scores:
        """Return the channel by sequence and page."""
        return self.source.scores(step, layer, channel, page_tokens)[self.originals()]

    def mass(self, step: int, layer: int, page_tokens: int) -> Scores:
        """Return the mass by sequence and page."""
        return self.source.mass(step, layer, page_tokens)[self.originals()]

    def selection(self, step: int, layer: int, page_tokens: int) -> BoolArray | None:
        """Return the recorded selection by sequence and page."""
        recorded = self.source.selection(step, layer, page_tokens)
        return None if recorded is None else recorded[self.originals()]
