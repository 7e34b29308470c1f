"""Some layers of a source, in a row: what one of several devices attends to."""

from __future__ import annotations

from dataclasses import dataclass

from kvsim.traces.access.base import AccessSource
from kvsim.types import BoolArray, IntArray, Scores


@dataclass(frozen=True, slots=True)
class LayersOf:
    """The `layers` of `source`, counted from 0."""

    source: AccessSource
    layers: range

    @property
    def num_steps(self) -> int:
        """Steps of the source."""
        return self.source.num_steps

    @property
    def num_layers(self) -> int:
        """Layers of these."""
        return len(self.layers)

    @property
    def num_sequences(self) -> int:
        """Sequences of the source."""
        return self.source.num_sequences

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels of the source."""
        return self.source.channels

    def context_tokens(self, step: int) -> IntArray:
        """Return the context of each sequence, ``[num_sequences]``."""
        return self.source.context_tokens(step)

    def scores(self, step: int, layer: int, channel: str, page_tokens: int) -> Scores:
        """Return the channel by sequence and page."""
        return self.source.scores(step, self.layers[layer], channel, page_tokens)

    def mass(self, step: int, layer: int, page_tokens: int) -> Scores:
        """Return the mass by sequence and page."""
        return self.source.mass(step, self.layers[layer], page_tokens)

    def selection(self, step: int, layer: int, page_tokens: int) -> BoolArray | None:
        """Return the recorded selection by sequence and page."""
        return self.source.selection(step, self.layers[layer], page_tokens)
