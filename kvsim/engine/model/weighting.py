"""How an attention turns products of queries and keys into weights: its scale, its cap and its sinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weighting:
    """One layer's way from products to weights."""

    scaling: float
    """What products are multiplied by: ``head_dim ** -0.5`` in most families, but not in all."""
    softcap: float | None = None
    """Scaled products are bent below this by a tanh (Gemma 2)."""
    sinks: Tensor | None = None
    """A learned logit for each query head that takes weight without a token, ``[num_heads]`` (gpt-oss)."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Weighting:
        """Return the same: it holds parts of the model, which copies of a run share."""
        del memo
        return self

    @property
    def is_plain(self) -> bool:
        """Whether weights are the softmax of scaled products, which is all that SDPA computes."""
        return self.softcap is None and self.sinks is None

    def logits(self, products: Tensor) -> Tensor:
        """Return scaled and capped products; a larger product never has a smaller logit."""
        return self.capped(products * self.scaling)

    def capped(self, scaled: Tensor) -> Tensor:
        """Return scaled products bent below the cap, where there is one."""
        return scaled if self.softcap is None else torch.tanh(scaled / self.softcap) * self.softcap

    def weights(self, products: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weights of products ``[..., num_heads, queries, keys]``, in float32; with sinks they sum to less.

        Parameters
        ----------
        mask
            True where a query sees a key, or what is added to its logits. A query that sees none sees all alike.
        """
        logits = self.logits(products.float())
        if mask is not None:
            least = torch.finfo(logits.dtype).min
            logits = logits.masked_fill(~mask, least) if mask.dtype == torch.bool else logits + mask
        if self.sinks is None:
            return logits.softmax(dim=-1)
        sinks = self.sinks.float().view(-1, 1, 1).expand(*logits.shape[:-1], 1)
        return torch.cat((logits, sinks), dim=-1).softmax(dim=-1)[..., :-1]
