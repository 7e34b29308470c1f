"""What selection sees of a page without reading it: summaries of its keys, and the scores they give a query."""

from __future__ import annotations

from typing import Protocol

import torch

from kvsim.errors import ScenarioError
from kvsim.strict import nearest
from kvsim.traces.base import NEXT_LAYER
from kvsim.types import PageGrid, pages_of


class Summaries(Protocol):
    """Keys of every page of the batch, summed up on the device."""

    def update(self, layer: int, page: int, key: torch.Tensor) -> None:
        """Add a token's key, ``[num_sequences, num_kv_heads, 1, head_dim]``, to the page at that place of a layer."""

    def scores(self, layer: int, query: torch.Tensor, num_pages: int) -> torch.Tensor:
        """Return the scores of a layer's first `num_pages` pages, ``[num_sequences, num_pages]``, in float16.

        `query` is ``[num_sequences, num_heads, 1, head_dim]``. A score is the mean over query heads of the softmax over
        pages of (bound or mean-key product) / sqrt(head_dim): not negative, summing to about 1.
        """


class QuestSummaries:
    """Element-wise largest and smallest keys: an upper bound on any token's score (Quest, arXiv 2406.10774).

    Kept as (max k, max -k), so that the bound is one product with (max(q, 0), max(-q, 0)).
    """

    def __init__(self, grid: PageGrid, keys: torch.Tensor, *, page_tokens: int, device: str) -> None:
        both = torch.cat((keys, -keys), dim=-1)
        shape = (grid.num_layers, grid.num_sequences, keys.shape[3], grid.pages_per_layer, both.shape[-1])
        self._bounds = torch.full(shape, -torch.inf, dtype=keys.dtype, device=device)
        # [layer, sequence, kv head, page, 2 head_dim]
        for page in range(pages_of(keys.shape[2], page_tokens)):
            tokens = both[:, :, page * page_tokens : (page + 1) * page_tokens]
            self._bounds[..., page, :] = tokens.amax(dim=2).transpose(0, 1).to(device)

    def update(self, layer: int, page: int, key: torch.Tensor) -> None:
        """Widen the page's bounds by one token."""
        bounds = self._bounds[layer, :, :, page : page + 1]
        torch.maximum(bounds, torch.cat((key, -key), dim=-1), out=bounds)

    def scores(self, layer: int, query: torch.Tensor, num_pages: int) -> torch.Tensor:
        """Return the softmax of the upper bounds."""
        return _box_scores(query, self._bounds[layer, :, :, :num_pages])


class CuboidMeanSummaries:
    """A box around the centre of each page's keys, as far to every side as they lie from it in the mean.

    ArkVale's "cuboid-mean" (NeurIPS 2024): the centre is that of the smallest box that holds all keys, so that one
    outlying key moves it less than it stretches Quest's bound. The keys of open pages are kept, because a new one moves
    the centre that the others are measured from.
    """

    def __init__(self, grid: PageGrid, keys: torch.Tensor, *, page_tokens: int, device: str) -> None:
        num_kv_heads, head_dim = keys.shape[3:]
        layers = (grid.num_layers, grid.num_sequences)
        shape = (*layers, num_kv_heads, grid.pages_per_layer, 2 * head_dim)
        self._bounds = torch.full(shape, -torch.inf, dtype=keys.dtype, device=device)
        # [layer, sequence, kv head, page, 2 head_dim]
        self._open = torch.zeros((*layers, page_tokens, num_kv_heads, head_dim), dtype=keys.dtype, device=device)
        self._open_page = [-1] * grid.num_layers
        self._open_tokens = [0] * grid.num_layers
        for page in range(pages_of(keys.shape[2], page_tokens)):
            tokens = keys[:, :, page * page_tokens : (page + 1) * page_tokens].to(device).transpose(0, 1)
            self._bounds[..., page, :] = _cuboid_mean(tokens)
            self._open[:, :, : tokens.shape[2]] = tokens
            self._open_page = [page] * grid.num_layers
            self._open_tokens = [tokens.shape[2]] * grid.num_layers

    def update(self, layer: int, page: int, key: torch.Tensor) -> None:
        """Measure the open page anew with one token more."""
        if page != self._open_page[layer]:
            self._open_page[layer], self._open_tokens[layer] = page, 0
        place = self._open_tokens[layer]
        self._open[layer, :, place] = key[:, :, 0]
        self._open_tokens[layer] = place + 1
        self._bounds[layer, :, :, page] = _cuboid_mean(self._open[layer, :, : place + 1])

    def scores(self, layer: int, query: torch.Tensor, num_pages: int) -> torch.Tensor:
        """Return the softmax of the most that a key within the box could score."""
        return _box_scores(query, self._bounds[layer, :, :, :num_pages])


class MeanSummaries:
    """The mean key of each page."""

    def __init__(self, grid: PageGrid, keys: torch.Tensor, *, page_tokens: int, device: str) -> None:
        shape = (grid.num_layers, grid.num_sequences, keys.shape[3], grid.pages_per_layer, keys.shape[-1])
        self._sums = torch.zeros(shape, dtype=torch.float32, device=device)
        self._counts = torch.zeros((grid.num_layers, grid.pages_per_layer, 1), device=device)
        for page in range(pages_of(keys.shape[2], page_tokens)):
            tokens = keys[:, :, page * page_tokens : (page + 1) * page_tokens]
            self._sums[..., page, :] = tokens.sum(dim=2, dtype=torch.float32).transpose(0, 1).to(device)
            self._counts[:, page] = tokens.shape[2]

    def update(self, layer: int, page: int, key: torch.Tensor) -> None:
        """Move the page's mean by one token."""
        self._sums[layer, :, :, page] += key[:, :, 0]
        self._counts[layer, page] += 1

    def scores(self, layer: int, query: torch.Tensor, num_pages: int) -> torch.Tensor:
        """Return the softmax of the products with the mean keys."""
        means = self._sums[layer, :, :, :num_pages] / self._counts[layer, :num_pages]
        return _scores(query.float(), means, query.shape[-1])


def make_summaries(
    channel: str, grid: PageGrid, keys: torch.Tensor, *, page_tokens: int, device: str
) -> QuestSummaries | CuboidMeanSummaries | MeanSummaries:
    """Return the summaries behind a score channel, filled with the keys of prefill; a speculation's are Quest's.

    Parameters
    ----------
    keys
        ``[num_sequences, num_layers, tokens, num_kv_heads, head_dim]``.

    Raises
    ------
    ScenarioError
        As `check_channel` does.
    """
    check_channel(channel)
    return _KINDS[channel](grid, keys, page_tokens=page_tokens, device=device)


def check_channel(channel: str) -> None:
    """Refuse a score channel that the engine cannot compute while it runs.

    Raises
    ------
    ScenarioError
        Naming the nearest that it can.
    """
    if channel not in _KINDS:
        raise ScenarioError(
            f"selector.channel {channel!r}: the engine selects by what it can see as it runs{nearest(channel, _KINDS)}"
        )


_KINDS: dict[str, type[QuestSummaries] | type[CuboidMeanSummaries] | type[MeanSummaries]] = {
    "estimate:quest": QuestSummaries,
    "estimate:cuboid-mean": CuboidMeanSummaries,
    "estimate:mean": MeanSummaries,
    NEXT_LAYER: QuestSummaries,
}


def _cuboid_mean(tokens: torch.Tensor) -> torch.Tensor:
    """Return (high, -low) of the box of ``[..., tokens, num_kv_heads, head_dim]``: no tokens, ``2 head_dim``."""
    keys = tokens.float()
    centre = (keys.amax(dim=-3) + keys.amin(dim=-3)) / 2
    reach = (keys - centre.unsqueeze(-3)).abs().mean(dim=-3)
    return torch.cat((centre + reach, reach - centre), dim=-1).to(tokens.dtype)


def _box_scores(query: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """Return the softmax of the most that a key within each page's box, kept as (high, -low), could score."""
    signed = torch.cat((query.clamp(min=0), (-query).clamp(min=0)), dim=-1)
    return _scores(signed, bounds, query.shape[-1])


def _scores(query: torch.Tensor, summaries: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Return the mean over heads of the softmax over pages, ``[num_sequences, num_pages]``, in float16."""
    num_sequences, num_kv_heads = summaries.shape[:2]
    grouped = query.reshape(num_sequences, num_kv_heads, -1, query.shape[-1]).mul(head_dim**-0.5)
    products = torch.matmul(grouped, summaries.transpose(-1, -2))  # [sequence, kv head, group, page]
    return products.float().softmax(dim=-1).flatten(1, 2).mean(dim=1).to(torch.float16)
