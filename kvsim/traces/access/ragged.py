"""A batch of sequences of unequal length that end at different steps, of sources in which all are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvsim.traces.access.base import MASS, AccessSource
from kvsim.types import BoolArray, IntArray, Scores, pages_of


@dataclass(frozen=True, slots=True)
class Ragged:
    """Sequence s of `sources[s]` for each sequence s, up to its last step.

    Parameters
    ----------
    sources
        One a sequence; the same one may stand for several. All have as many layers, and as many steps.
    steps
        Steps that each sequence decodes; after them it has ended.
    """

    sources: Sequence[AccessSource]
    steps: Sequence[int]

    @property
    def num_steps(self) -> int:
        """Steps of the sources."""
        return self.sources[0].num_steps

    @property
    def num_layers(self) -> int:
        """Layers of the sources."""
        return self.sources[0].num_layers

    @property
    def num_sequences(self) -> int:
        """Sequences of the batch."""
        return len(self.sources)

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels of the sources."""
        return self.sources[0].channels

    def context_tokens(self, step: int) -> IntArray:
        """Return the context of each sequence, ``[num_sequences]``; that of its last step once it has ended."""
        return np.array(
            [
                int(source.context_tokens(min(step, steps - 1))[sequence])
                for sequence, (source, steps) in enumerate(zip(self.sources, self.steps, strict=True))
            ],
            dtype=np.int64,
        )

    def scores(self, step: int, layer: int, channel: str, page_tokens: int) -> Scores:
        """Return the channel by sequence and page; zeros for a sequence that has ended."""
        num_pages = pages_of(int(self.context_tokens(step).max()), page_tokens)
        read = {id(source): source.scores(step, layer, channel, page_tokens) for source in self.sources}
        rows: Scores = np.zeros((self.num_sequences, num_pages), dtype=read[id(self.sources[0])].dtype)
        for sequence, (source, steps) in enumerate(zip(self.sources, self.steps, strict=True)):
            if step < steps:
                own = read[id(source)][sequence]
                rows[sequence, : own.size] = own
        return rows

    def mass(self, step: int, layer: int, page_tokens: int) -> Scores:
        """Return the mass by sequence and page; zeros for a sequence that has ended."""
        return self.scores(step, layer, MASS, page_tokens)

    def selection(self, step: int, layer: int, page_tokens: int) -> BoolArray | None:  # noqa: ARG002
        """Return None: nothing attended to what is put together."""
        return None
