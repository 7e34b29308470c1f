"""What selection sees of a page without reading it: summaries of its keys, and the scores they give a query."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from kvsim.engine.model.weighting import Weighting
from kvsim.errors import ScenarioError
from kvsim.kernels.scores import box_scores, widen
from kvsim.scenario.toml import nearest
from kvsim.traces.access.base import NEXT_LAYER
from kvsim.types import PageGrid

PromptKeys: TypeAlias = Iterable[torch.Tensor]
"""Of each layer in turn, ``[num_sequences, tokens, num_kv_heads, head_dim]``: never all at once on the device."""


class Summaries(Protocol):
    """Keys of every page of the batch, summed up on the device."""

    def update(self, layer: int, page: int, key: torch.Tensor) -> None:
        """Add a token's key, ``[num_sequences, num_kv_heads, 1, head_dim]``, to the page at that place of a layer."""

    def scores(self, layer: int, query: torch.Tensor, num_pages: int, weighting: Weighting) -> torch.Tensor:
        """Return the scores of a layer's first `num_pages` pages, ``[num_sequences, num_pages]``, in float16.

        `query` is ``[num_sequences, num_heads, 1, head_dim]``. A score is the mean over query heads of the softmax over
        pages of the logit of (bound or mean-key product): not negative, summing to about 1.
        """


class QuestSummaries:
    """Element-wise largest and smallest keys: an upper bound on any token's score (Quest, arXiv 2406.10774).

    Kept as (max k, max -k), so that the bound is one product with (max(q, 0), max(-q, 0)).
    """

    def __init__(self, grid: PageGrid, keys: PromptKeys, *, page_tokens: int, device: str) -> None:
        layers = [_bounds(_box, grid, own.to(device), page_tokens) for own in keys]
        self._bounds = _as_scored(torch.stack(layers))  # [layer, sequence, kv head, page, 2 head_dim]

    def update(self, layer: int, page: int, key: torch.Tensor) -> None:
        """Widen the page's bounds by one token."""
        if self._bounds.is_cuda:
            bounds = self._bounds[layer, :, :, page : page + 1]
            torch.maximum(bounds, torch.cat((key, -key), dim=-1), out=bounds)
        else:
            widen(self.host_bounds(layer), page, _host_floats(key))

    def scores(self, layer: int, query: torch.Tensor, num_pages: int, weighting: Weighting) -> torch.Tensor:
        """Return the softmax of the upper bounds."""
        return _box_scores(query, self._bounds[layer], num_pages, weighting)

    def host_bounds(self, layer: int) -> NDArray[np.float32]:
        """Return a layer's bounds, which must lie on the host, as the compiled kernels read them."""
        return _host_floats(self._bounds[layer])


class CuboidMeanSummaries:
    """A box around the centre of each page's keys, as far to every side as they lie from it in the mean.

    ArkVale's "cuboid-mean" (NeurIPS 2024): the centre is that of the smallest box that holds all keys, so that one
    outlying key moves it less than it stretches Quest's bound. The keys of open pages are kept, because a new one moves
    the centre that the others are measured from.
    """

    def __init__(self, grid: PageGrid, keys: PromptKeys, *, page_tokens: int, device: str) -> None:
        layers, ends = [], []
        for own in keys:
            on_device = own.to(device)
            layers.append(_bounds(_cuboid_mean, grid, on_device, page_tokens))
            ends.append(on_device[:, (on_device.shape[1] - 1) // page_tokens * page_tokens :])
        self._bounds = _as_scored(torch.stack(layers))  # [layer, sequence, kv head, page, 2 head_dim]
        end = torch.stack(ends)  # the last page of each layer, full or not
        self._open = end.new_zeros((*end.shape[:2], page_tokens, *end.shape[3:]))
        self._open[:, :, : end.shape[2]] = end
        self._open_page = [(on_device.shape[1] - 1) // page_tokens] * grid.num_layers
        self._open_tokens = [end.shape[2]] * grid.num_layers

    def update(self, layer: int, page: int, key: torch.Tensor) -> None:
        """Measure the open page anew with one token more."""
        if page != self._open_page[layer]:
            self._open_page[layer], self._open_tokens[layer] = page, 0
        place = self._open_tokens[layer]
        self._open[layer, :, place] = key[:, :, 0]
        self._open_tokens[layer] = place + 1
        self._bounds[layer, :, :, page] = _cuboid_mean(self._open[layer, :, : place + 1])

    def scores(self, layer: int, query: torch.Tensor, num_pages: int, weighting: Weighting) -> torch.Tensor:
        """Return the softmax of the most that a key within the box could score."""
        return _box_scores(query, self._bounds[layer], num_pages, weighting)


class MeanSummaries:
    """The mean key of each page."""

    def __init__(self, grid: PageGrid, keys: PromptKeys, *, page_tokens: int, device: str) -> None:
        sums, self._counts = [], torch.zeros((grid.num_layers, grid.pages_per_layer, 1), device=device)
        for layer, own in enumerate(keys):
            on_device = own.to(device)
            num_sequences, _, num_kv_heads, head_dim = on_device.shape
            shape = (num_sequences, num_kv_heads, grid.pages_per_layer, head_dim)
            sums.append(torch.zeros(shape, dtype=torch.float32, device=device))
            for places, pages in _runs(on_device, page_tokens):
                sums[layer][:, :, places] = pages.sum(dim=2, dtype=torch.float32).transpose(1, 2)
                self._counts[layer, places] = pages.shape[2]
        self._sums = torch.stack(sums)  # [layer, sequence, kv head, page, head_dim]

    def update(self, layer: int, page: int, key: torch.Tensor) -> None:
        """Move the page's mean by one token."""
        self._sums[layer, :, :, page] += key[:, :, 0]
        self._counts[layer, page] += 1

    def scores(self, layer: int, query: torch.Tensor, num_pages: int, weighting: Weighting) -> torch.Tensor:
        """Return the softmax of the products with the mean keys."""
        means = self._sums[layer, :, :, :num_pages] / self._counts[layer, :num_pages]
        return _scores(query.float(), means, weighting)


def make_summaries(channel: str, grid: PageGrid, keys: PromptKeys, *, page_tokens: int, device: str) -> Summaries:
    """Return the summaries behind a score channel, filled with the keys of prefill; a speculation's are Quest's.

    Parameters
    ----------
    keys
        Of the prompt, layer by layer; a layer is on the device only while it is summed up.

    Raises
    ------
    ScenarioError
        As `check_channel` does.
    """
    check_channel(channel)
    return _KINDS[channel](grid, keys, page_tokens=page_tokens, device=device)


def bounds_keys(channel: str) -> bool:
    """Return whether the summaries behind a channel are those that speculation scores by, too."""
    return _KINDS[channel] is QuestSummaries


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


_KINDS: dict[str, Callable[..., Summaries]] = {
    "estimate:quest": QuestSummaries,
    "estimate:cuboid-mean": CuboidMeanSummaries,
    "estimate:mean": MeanSummaries,
    NEXT_LAYER: QuestSummaries,
}


def _runs(keys: torch.Tensor, page_tokens: int) -> list[tuple[slice, torch.Tensor]]:
    """Return a layer's full pages and what lies behind them: places and ``[sequence, page, token, kv head, dim]``."""
    num_full = keys.shape[1] // page_tokens
    runs = []
    if num_full:
        full = keys[:, : num_full * page_tokens].reshape(len(keys), num_full, page_tokens, *keys.shape[2:])
        runs.append((slice(0, num_full), full))
    if keys.shape[1] % page_tokens:
        runs.append((slice(num_full, num_full + 1), keys[:, num_full * page_tokens :].unsqueeze(1)))
    return runs


def _bounds(
    box: Callable[[torch.Tensor], torch.Tensor], grid: PageGrid, keys: torch.Tensor, page_tokens: int
) -> torch.Tensor:
    """Return the boxes of a layer's pages, ``[sequence, kv head, page, 2 head_dim]``; -inf where none is yet."""
    num_sequences, _, num_kv_heads, head_dim = keys.shape
    bounds = keys.new_full((num_sequences, num_kv_heads, grid.pages_per_layer, 2 * head_dim), -torch.inf)
    for places, pages in _runs(keys, page_tokens):
        bounds[:, :, places] = box(pages).transpose(1, 2)
    return bounds


def _box(tokens: torch.Tensor) -> torch.Tensor:
    """Return (max k, max -k) of ``[..., tokens, num_kv_heads, head_dim]``: no tokens, ``2 head_dim``."""
    return torch.cat((tokens.amax(dim=-3), -tokens.amin(dim=-3)), dim=-1)


def _cuboid_mean(tokens: torch.Tensor) -> torch.Tensor:
    """Return (high, -low) of the box of ``[..., tokens, num_kv_heads, head_dim]``: no tokens, ``2 head_dim``."""
    keys = tokens.float()
    centre = (keys.amax(dim=-3) + keys.amin(dim=-3)) / 2
    reach = (keys - centre.unsqueeze(-3)).abs().mean(dim=-3)
    return torch.cat((centre + reach, reach - centre), dim=-1).to(tokens.dtype)


def _as_scored(bounds: torch.Tensor) -> torch.Tensor:
    """Return bounds in the dtype that they are scored in: float32 on the host, for the compiled kernels."""
    return bounds if bounds.is_cuda else bounds.float()


def _box_scores(query: torch.Tensor, bounds: torch.Tensor, num_pages: int, weighting: Weighting) -> torch.Tensor:
    """Return the scores of a layer's first `num_pages` pages."""
    if bounds.is_cuda:
        return torch_box_scores(query, bounds[:, :, :num_pages], weighting)
    return host_box_scores(query, bounds, num_pages, weighting)


def torch_box_scores(query: torch.Tensor, bounds: torch.Tensor, weighting: Weighting) -> torch.Tensor:
    """Return the softmax of the most that a key within each page's box, kept as (high, -low), could score."""
    signed = torch.cat((query.clamp(min=0), (-query).clamp(min=0)), dim=-1)
    return _scores(signed, bounds, weighting)


def host_box_scores(query: torch.Tensor, bounds: torch.Tensor, num_pages: int, weighting: Weighting) -> torch.Tensor:
    """Return what `torch_box_scores` does, compiled and in float32: a third of the time for a few hundred pages.

    `bounds` may be of more pages than the `num_pages` that are scored.
    """
    scores = np.empty((bounds.shape[0], num_pages), dtype=np.float32)
    queries = _host_floats(query)[:, :, 0]
    box_scores(queries, _host_floats(bounds), weighting.scaling, weighting.softcap or 0.0, scores)
    return torch.from_numpy(scores.astype(np.float16))


def _host_floats(numbers: torch.Tensor) -> NDArray[np.float32]:
    """Return numbers on the host in float32, in order: themselves where they are so already."""
    floats: NDArray[np.float32] = numbers.detach().float().contiguous().numpy()
    return floats


def _scores(query: torch.Tensor, summaries: torch.Tensor, weighting: Weighting) -> torch.Tensor:
    """Return the mean over heads of the softmax over pages, ``[num_sequences, num_pages]``, in float16."""
    num_sequences, num_kv_heads = summaries.shape[:2]
    grouped = query.reshape(num_sequences, num_kv_heads, -1, query.shape[-1]).mul(weighting.scaling)
    products = torch.matmul(grouped, summaries.transpose(-1, -2))  # [sequence, kv head, group, page]
    return weighting.capped(products.float()).softmax(dim=-1).flatten(1, 2).mean(dim=1).to(torch.float16)
