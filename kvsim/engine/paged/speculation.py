"""What a layer predicts of the next: its hidden state, through the next layer's query, scores that layer's pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from kvsim.engine.model.families import Queries, Rotary, decoder_layers, weightings_of
from kvsim.engine.paged.batch_summaries import BatchSummaries
from kvsim.engine.paged.host_queries import HostQueries, host_queries
from kvsim.types import IntArray


class Speculation:
    """Scores of each layer's pages as predicted one layer earlier.

    The hidden state that enters a layer goes through the next layer's norm and query projection, with the position's
    rotary embedding, and the query meets that layer's page summaries as they are then: the token being decoded is not
    among them, and a page that it will open scores 0. After InfiniGen (OSDI 2024), with whole queries instead of its
    partial weights.
    """

    def __init__(self, model: Any, summaries: BatchSummaries) -> None:
        self._queries: Queries | HostQueries = host_queries(model) or Queries(model)
        self._weightings = weightings_of(model)
        self._summaries = summaries
        self._heard: tuple[torch.Tensor, Rotary | None] | None = None

    def hear(self, hidden: torch.Tensor, rotary: Rotary | None) -> None:
        """Keep what enters a layer, ``[num_sequences, 1, hidden_size]``, until that layer attends."""
        self._heard = hidden, rotary

    def scores(self, layer: int, known_pages: IntArray, num_pages: int) -> torch.Tensor:
        """Return the scores of `layer` by what was last heard, ``[num_sequences, num_pages]``, in float16.

        `known_pages` of each sequence's pages have tokens by now; the others get 0.
        """
        assert self._heard is not None, "no layer was heard"
        hidden, rotary = self._heard
        self._heard = None
        weighting = self._weightings[layer]
        bounds = self._summaries.host_bounds(layer) if isinstance(self._queries, HostQueries) else None
        if isinstance(self._queries, HostQueries) and bounds is not None:
            scores = self._queries.scores(layer, hidden, rotary, bounds, int(known_pages.max()), weighting)
            known = torch.from_numpy(scores.astype(np.float16))
        else:
            known = self._summaries.scores(layer, self._queries.of(layer, hidden, rotary), known_pages, weighting)
        unknown = num_pages - known.shape[1]
        return torch.nn.functional.pad(known, (0, unknown)) if unknown else known


def listen(model: Any, hear: Callable[[torch.Tensor, Rotary | None], None]) -> list[RemovableHandle]:
    """Let `hear` know what enters every layer with pages but the last; remove the handles when done."""

    def hook(module: Any, arguments: tuple[Any, ...], named: dict[str, Any] | None = None) -> None:
        del module  # `named` is absent in a pass of another thread that has just met the hook coming or going
        hear(arguments[0], (named or {}).get("position_embeddings"))

    return [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in decoder_layers(model)[:-1]]
