"""The summaries of a batch: of all sequences together, or of each by itself where their lengths differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from kvsim.engine.model.weighting import Weighting
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.summaries import PromptKeys, QuestSummaries, Summaries
from kvsim.types import IntArray, PageGrid


class BatchSummaries:
    """What `Summaries` are for sequences alike long, for a batch whose sequences have pages in numbers of their own.

    Parameters
    ----------
    make
        Makes the summaries of a grid from the keys of its prompts.
    """

    def __init__(
        self, make: Callable[[PageGrid, PromptKeys], Summaries], grid: PageGrid, snapshot: Snapshot, device: str
    ) -> None:
        if snapshot.unequal_tokens is None:
            self._parts = [(slice(0, grid.num_sequences), make(grid, snapshot.layer_keys(device)))]
        else:
            one = PageGrid(num_sequences=1, num_layers=grid.num_layers, pages_per_layer=grid.pages_per_layer)
            own_keys = [_keys_of(snapshot, sequence, device) for sequence in range(grid.num_sequences)]
            self._parts = [(slice(place, place + 1), make(one, keys)) for place, keys in enumerate(own_keys)]

    def update(self, layer: int, num_pages: IntArray, key: torch.Tensor) -> None:
        """Add a token's key, ``[num_sequences, num_kv_heads, 1, head_dim]``, to the last of each sequence's pages.

        A sequence with 0 pages has ended.
        """
        if len(self._parts) == 1:
            self._parts[0][1].update(layer, int(num_pages.max()) - 1, key)
            return
        for rows, summaries in self._parts:
            pages = int(num_pages[rows].max())
            if pages:
                summaries.update(layer, pages - 1, key[rows])

    def host_bounds(self, layer: int) -> NDArray[np.float32] | None:
        """Return the bounds of a layer as the compiled kernels read them; None where no one array has them."""
        summaries = self._parts[0][1]
        if len(self._parts) > 1 or not isinstance(summaries, QuestSummaries):
            return None
        return summaries.host_bounds(layer)

    def scores(self, layer: int, query: torch.Tensor, num_pages: IntArray, weighting: Weighting) -> torch.Tensor:
        """Return the scores of a layer's pages, ``[num_sequences, max(num_pages)]``, 0 where a sequence has no page."""
        if len(self._parts) == 1:
            return self._parts[0][1].scores(layer, query, int(num_pages.max()), weighting)
        scores = torch.zeros((len(num_pages), int(num_pages.max())), dtype=torch.float16, device=query.device)
        for rows, summaries in self._parts:
            pages = int(num_pages[rows].max())
            if pages:
                scores[rows, :pages] = summaries.scores(layer, query[rows], pages, weighting)
        return scores


def _keys_of(snapshot: Snapshot, sequence: int, device: str) -> Iterator[torch.Tensor]:
    """Yield the keys of one prompt, layer by layer, on `device`, ``[1, tokens, num_kv_heads, head_dim]``."""
    tokens = int(snapshot.sequence_tokens[sequence])
    for layer in range(snapshot.num_layers):
        yield snapshot.tokens[sequence : sequence + 1, layer, :tokens, 0].to(device)
