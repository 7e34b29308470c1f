"""Nouns that more than one room needs: the grid of pages and the arrays that speak of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

AnyScalar = TypeVar("AnyScalar", bound=np.generic)

PageIds: TypeAlias = NDArray[np.int64]
"""Dense page ids, one integer a page; see `PageGrid`."""

Scores: TypeAlias = NDArray[np.floating[Any]]
"""Scores of pages, one row a sequence: ``[num_sequences, num_pages]``."""

BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]

Rows: TypeAlias = Mapping[str, NDArray[Any]]
"""A table by the names of its columns, all of one length."""

Partition: TypeAlias = Literal["shared", "per_layer"]

Tier: TypeAlias = Literal["device", "host"]
"""Where keys and values are kept: with the model's weights, or in host memory (pinned where there is a GPU)."""

Lane: TypeAlias = Literal["host", "compute", "to device", "to host"]
"""Who is busy: the host thread, the compute stream, or the copy engine of one direction."""

UNIT_TOKENS = 16
"""Tokens of one unit of an access trace; a page is a whole number of units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageGrid:
    """Every page that a batch can own, numbered densely: ``(sequence * num_layers + layer) * pages_per_layer + index``.

    Examples
    --------
    >>> grid = PageGrid(num_sequences=2, num_layers=3, pages_per_layer=10)
    >>> grid.first_page(sequence=1, layer=2)
    50
    >>> grid.num_pages
    60
    """

    num_sequences: int
    num_layers: int
    pages_per_layer: int

    @property
    def num_pages(self) -> int:
        """Number of page ids, used or not."""
        return self.num_sequences * self.num_layers * self.pages_per_layer

    def first_page(self, *, sequence: int, layer: int) -> int:
        """Return the id of page 0 of one layer of one sequence."""
        return (sequence * self.num_layers + layer) * self.pages_per_layer

    def first_pages(self, layer: int) -> PageIds:
        """Return the id of page 0 of one layer of each sequence, ``[num_sequences]``."""
        return np.arange(self.num_sequences) * self.num_layers * self.pages_per_layer + layer * self.pages_per_layer

    def of_layer(self, by_page: NDArray[AnyScalar], layer: int) -> NDArray[AnyScalar]:
        """Return what an array by page id has of one layer, ``[num_sequences, pages_per_layer]``, as a view."""
        rows = by_page.reshape(self.num_sequences, self.num_layers, self.pages_per_layer)
        layer_rows: NDArray[AnyScalar] = rows[:, layer]
        return layer_rows

    def layer_pages(self, layer: int, chosen: BoolArray) -> PageIds:
        """Return the pages of one layer that are `chosen`, ``[num_sequences, pages_per_layer]``, ascending."""
        sequences, indices = np.nonzero(chosen)
        return self.first_pages(layer)[sequences] + indices

    def sequence_of(self, pages: PageIds) -> IntArray:
        """Return the sequence of each page."""
        sequences: IntArray = pages // (self.num_layers * self.pages_per_layer)
        return sequences

    def layer_of(self, pages: PageIds) -> IntArray:
        """Return the layer of each page."""
        layers: IntArray = (pages // self.pages_per_layer) % self.num_layers
        return layers

    def index_of(self, pages: PageIds) -> IntArray:
        """Return each page's place within its layer, 0 for the first tokens."""
        indices: IntArray = pages % self.pages_per_layer
        return indices


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What one player did from one moment to another, simulated or measured; spans of a lane do not overlap.

    In the lane ``compute`` the names are those of a step's parts without their ``_s``: a segment, ``stall``, or
    ``host`` where the stream waits for the host. In the lanes of copies a name is the transfer's kind.
    """

    lane: Lane
    name: str
    start_s: float
    end_s: float
    step: int
    """Of a copy: the step that asked for it."""
    layer: int | None
    """None where the work is no layer's. Of a copy: the layer of its first page."""
    num_pages: int | None = None
    """Pages that a copy carries."""
    submitted_s: float | None = None
    """When a copy was handed to its link."""


def pages_of(tokens: int, page_tokens: int) -> int:
    """Return how many pages hold `tokens` tokens, the open page included.

    Examples
    --------
    >>> pages_of(33, 16)
    3
    """
    return -(-tokens // page_tokens)
