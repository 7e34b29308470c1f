"""What selector and policy see of a layer: its pages' scores, and those of the next layer where they are predicted."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kvsim.engine.model.families import weightings_of
from kvsim.engine.paged.batch_summaries import BatchSummaries
from kvsim.engine.paged.prefill import Snapshot
from kvsim.engine.paged.speculation import Speculation
from kvsim.engine.paged.summaries import bounds_keys, check_channel, make_summaries
from kvsim.engine.paged.visible import Visible
from kvsim.kernels.pages.top_k import top_k
from kvsim.policies.selectors import Selector, TopK, middle_of
from kvsim.traces.access.base import NEXT_LAYER
from kvsim.types import IntArray, PageGrid, Scores


def choose(selector: Selector, scores: Scores, num_pages: int) -> IntArray:
    """Return what a selector chooses of one sequence's pages by scores in float16, compiled where it is `TopK`."""
    if not isinstance(selector, TopK):
        return selector.select(scores, num_pages)
    first, last = middle_of(num_pages, selector.sink_pages, selector.recent_pages)
    chosen: IntArray = top_k(scores.view(np.uint16), first, last, selector.k_pages, num_pages)
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Scores of one layer on the host, in float16."""

    scores: Scores
    """Of the layer's pages, ``[num_sequences, num_pages]``."""
    speculation: Scores | None = None
    """Of the next layer's pages, likewise; None at the last layer, and where nobody asks for it."""

    def shown(self, visible: Visible) -> Seen:
        """Return the same with 0 for pages that hold nothing visible."""
        speculation = None if self.speculation is None else visible.scores(self.speculation)
        return Seen(scores=visible.scores(self.scores), speculation=speculation)


class Scoring:
    """Scores every page of the batch by its summary, layer by layer.

    Parameters
    ----------
    snapshot
        The prompt, whose keys are summed up layer by layer.
    predicts
        Whether each layer scores the pages of the next, besides or instead of its own.
    shows_speculation
        Whether what is predicted is brought to the host where it is predicted.
    """

    def __init__(
        self,
        model: Any,
        grid: PageGrid,
        snapshot: Snapshot,
        *,
        channel: str,
        page_tokens: int,
        device: str,
        predicts: bool,
        shows_speculation: bool,
    ) -> None:
        check_channel(channel)
        self._grid = grid
        self._weightings = weightings_of(model)
        self._device = device
        self._selects_by_speculation = channel == NEXT_LAYER
        self._shows_speculation = shows_speculation
        make = functools.partial(make_summaries, page_tokens=page_tokens, device=device)
        self._summaries = BatchSummaries(functools.partial(make, channel), grid, snapshot, device)
        self._all_summaries = [self._summaries]
        self.speculation: Speculation | None = None
        if predicts:
            bounds = self._summaries
            if not bounds_keys(channel):
                bounds = BatchSummaries(functools.partial(make, NEXT_LAYER), grid, snapshot, device)
                self._all_summaries.append(bounds)
            self.speculation = Speculation(model, bounds)
        self._predicted: torch.Tensor | None = None

    def predict(self, layer: int, known_pages: IntArray, num_pages: IntArray) -> torch.Tensor | None:
        """Return the next layer's scores, ``[num_sequences, num_pages]`` on the device; None if there is none.

        Parameters
        ----------
        known_pages
            Pages of each sequence without the new token of the step under way, which the next layer does not have yet.
        num_pages
            With it.
        """
        if self.speculation is None or layer + 1 == self._grid.num_layers:
            return None
        return self.speculation.scores(layer + 1, known_pages, int(num_pages.max()))

    def score(
        self, layer: int, key: torch.Tensor, query: torch.Tensor, num_pages: IntArray, predicted: torch.Tensor | None
    ) -> torch.Tensor | list[torch.Tensor]:
        """Add the new token's key to its page and score the layer; `predicted` is what `predict` returned.

        Returns
        -------
        torch.Tensor or list of them
            On the device, ``[1 or 2, num_sequences, num_pages]``: the layer's scores and, if shown, the next one's;
            on a GPU in one tensor, for one read-back.
        """
        for summaries in self._all_summaries:
            summaries.update(layer, num_pages, key)
        if self._selects_by_speculation:
            scores = self._predicted if layer else self._nothing(int(num_pages.max()))
            assert scores is not None
            self._predicted = predicted
        else:
            scores = self._summaries.scores(layer, query, num_pages, self._weightings[layer])
        shown = [scores, predicted] if self._shows_speculation and predicted is not None else [scores]
        return torch.stack(shown) if scores.is_cuda else shown

    def read(self, on_device: torch.Tensor | list[torch.Tensor]) -> Seen:
        """Bring what `score` returned to the host."""
        rows = [scores.numpy() for scores in on_device] if isinstance(on_device, list) else on_device.cpu().numpy()
        return Seen(scores=rows[0], speculation=rows[1] if len(rows) > 1 else None)

    def _nothing(self, num_pages: int) -> torch.Tensor:
        """Return zeros: no layer comes before the first, so that nothing is predicted of its pages."""
        return torch.zeros((self._grid.num_sequences, num_pages), dtype=torch.float16, device=self._device)
