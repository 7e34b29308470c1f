"""What a decode query says of pages: the true attention mass, and the bounds and means that selectors estimate it by.

Everything is computed in float32 whatever the model computes in. Query heads share their group's keys (GQA); a
page's score is the mean over the query heads of a layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvsim.engine.model.weighting import Weighting
from kvsim.types import pages_of


def head_products(query: Tensor, keys: Tensor) -> Tensor:
    """Return the dot products of every query head with its group's keys, ``[num_heads, n]``.

    Parameters
    ----------
    query
        ``[num_heads, head_dim]``, after the rotary embedding.
    keys
        ``[num_kv_heads, n, head_dim]``: of tokens, or any summary of pages.
    """
    groups = query.float().reshape(keys.shape[0], -1, query.shape[-1])
    return (groups @ keys.float().transpose(1, 2)).flatten(0, 1)


def quest_bounds(query: Tensor, minimum: Tensor, maximum: Tensor) -> Tensor:
    r"""Return for each query head the largest product with a key of each page, ``[num_heads, num_pages]``.

    :math:`\sum_d \max(q_d m_d, q_d M_d)` over the element-wise minimum and maximum of a page's keys,
    ``[num_kv_heads, num_pages, head_dim]``. After Quest (arXiv 2406.10774).
    """
    return head_products(query.clamp(min=0), maximum) + head_products(query.clamp(max=0), minimum)


def mean_softmax(logits: Tensor) -> Tensor:
    """Return the mean over heads of each head's softmax, ``[n]`` from ``[num_heads, n]``; it sums to 1."""
    return logits.softmax(-1).mean(0)


def mean_mass(products: Tensor, weighting: Weighting) -> Tensor:
    """Return the mean over heads of the weights that tokens get, ``[n]`` from products ``[num_heads, n]``.

    It sums to 1: what sinks take belongs to no token, and the tokens' share of the rest is what counts.
    """
    mass = weighting.weights(products.unsqueeze(1)).squeeze(1).mean(0)
    return mass if weighting.sinks is None else mass / mass.sum()


def sum_by(tokens_per_sum: int, mass: Tensor) -> Tensor:
    """Return the sums of every `tokens_per_sum` values, ``[pages_of(n, tokens_per_sum)]``; the last may hold fewer.

    Examples
    --------
    >>> sum_by(2, torch.tensor([1.0, 2.0, 3.0])).tolist()
    [3.0, 3.0]
    """
    missing = -mass.shape[0] % tokens_per_sum
    return torch.nn.functional.pad(mass, (0, missing)).reshape(-1, tokens_per_sum).sum(1)


class PageSummaries:
    """Element-wise minimum, maximum, mean and cuboid-mean of the keys of each page of one layer of one sequence.

    Complete pages are summarised once; the open page each time that it grows.
    """

    def __init__(self, *, page_tokens: int, max_tokens: int, num_kv_heads: int, head_dim: int, device: torch.device):
        shape = (num_kv_heads, pages_of(max_tokens, page_tokens), head_dim)
        self.page_tokens = page_tokens
        self.num_tokens = 0
        self._minimum = torch.zeros(shape, device=device)  # [num_kv_heads, max_pages, head_dim]
        self._maximum = torch.zeros(shape, device=device)
        self._mean = torch.zeros(shape, device=device)
        self._low = torch.zeros(shape, device=device)
        self._high = torch.zeros(shape, device=device)

    def extend(self, keys: Tensor) -> None:
        """Bring the summaries up to date with `keys`, all of the layer's, ``[num_kv_heads, num_tokens, head_dim]``."""
        first = self.num_tokens // self.page_tokens
        self.num_tokens = keys.shape[1]
        complete = self.num_tokens // self.page_tokens
        if complete > first:
            pages = keys[:, first * self.page_tokens : complete * self.page_tokens].float()
            self._put(slice(first, complete), pages.reshape(pages.shape[0], -1, self.page_tokens, pages.shape[2]))
        if self.num_tokens % self.page_tokens:
            open_page = keys[:, None, complete * self.page_tokens :].float()
            self._put(slice(complete, complete + 1), open_page)

    def quest(self, query: Tensor, weighting: Weighting) -> Tensor:
        """Return the mean over heads of the softmax over pages of the bounds, ``[num_pages]``."""
        pages = self._pages()
        bounds = quest_bounds(query, self._minimum[:, pages], self._maximum[:, pages])
        return mean_softmax(weighting.logits(bounds))

    def mean(self, query: Tensor, weighting: Weighting) -> Tensor:
        """Return the mean over heads of the softmax over pages of the products with mean keys, ``[num_pages]``."""
        return mean_softmax(weighting.logits(head_products(query, self._mean[:, self._pages()])))

    def cuboid_mean(self, query: Tensor, weighting: Weighting) -> Tensor:
        """Return what `quest` does, of smaller boxes: centre plus and minus the mean distance from it, ``[num_pages]``.

        After ArkVale (NeurIPS 2024), whose cuboid-mean this is.
        """
        pages = self._pages()
        return mean_softmax(weighting.logits(quest_bounds(query, self._low[:, pages], self._high[:, pages])))

    def _put(self, where: slice, pages: Tensor) -> None:
        """Summarise `pages`, ``[num_kv_heads, n, tokens, head_dim]``."""
        self._minimum[:, where], self._maximum[:, where] = pages.amin(2), pages.amax(2)
        self._mean[:, where] = pages.mean(2)
        centre = (self._minimum[:, where] + self._maximum[:, where]) / 2
        reach = (pages - centre.unsqueeze(2)).abs().mean(2)
        self._low[:, where], self._high[:, where] = centre - reach, centre + reach

    def _pages(self) -> slice:
        return slice(0, pages_of(self.num_tokens, self.page_tokens))
