"""What the simulator needs of recorded or generated accesses: who attends to what, with no times of a machine in it."""

from __future__ import annotations

from typing import Protocol

from kvsim.types import BoolArray, IntArray, Scores

MASS = "mass"
"""Channel of the true attention mass: an oracle selector when pages are chosen by it."""

NEXT_LAYER = "speculate:next-layer"
"""Channel of what the hidden state entering the layer before says of a layer; 0 at layer 0, which has none before."""


class AccessSource(Protocol):
    """Accesses of one batch in decode: a trace file, or a generator with stated parameters.

    Step 0 is the first decode step. Arrays have one row a sequence and ``pages_of(context, page_tokens)`` columns
    for the longest context of the batch at that step; columns past a sequence's own pages hold 0.
    """

    @property
    def num_steps(self) -> int:
        """Decode steps that can be replayed."""

    @property
    def num_layers(self) -> int:
        """Layers of the model."""

    @property
    def num_sequences(self) -> int:
        """Sequences of the batch."""

    @property
    def channels(self) -> tuple[str, ...]:
        """Names that `scores` knows: ``mass``, ``estimate:<summary>``, ``speculate:next-layer``."""

    def context_tokens(self, step: int) -> IntArray:
        """Return the tokens each sequence attends to at `step`, the new one included, ``[num_sequences]``.

        They differ where prompts are of unequal length. A sequence whose context is that of the step before and whose
        mass is 0 has ended: it reads nothing.
        """

    def scores(self, step: int, layer: int, channel: str, page_tokens: int) -> Scores:
        """Return one channel by page, ``[num_sequences, num_pages]``, in the dtype it was recorded in.

        Raises
        ------
        TraceError
            If the channel was not recorded for this page size.
        """

    def mass(self, step: int, layer: int, page_tokens: int) -> Scores:
        """Return the attention mass of each page, ``[num_sequences, num_pages]``; a sequence's row sums to 1."""

    def selection(self, step: int, layer: int, page_tokens: int) -> BoolArray | None:
        """Return the pages the engine attended, ``[num_sequences, num_pages]``, or None where it recorded none."""


class RecordedAccesses(AccessSource, Protocol):
    """Accesses that were recorded, in a file of any format of `kvsim.traces.access.registry`."""

    @property
    def text(self) -> str:
        """What was read while they were recorded, in words; empty where that is not known."""
