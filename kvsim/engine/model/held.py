"""How a token's keys and values lie in a page: keys beside values, or one latent for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Tokens of a page are ``[..., tokens, planes, num_kv_heads, head_dim]``; the first plane is what queries meet."""

    latent_numbers: int | None = None
    """Numbers of a latent without its rotated part, where layers hold one: a page has one plane then, not two."""

    def planes(self, key: Tensor, value: Tensor) -> Tensor:
        """Return what a cache is handed, ``[n, num_kv_heads, tokens, dim]`` each, as tokens of a page."""
        if self.latent_numbers is None:
            return torch.stack((key.transpose(1, 2), value.transpose(1, 2)), dim=2)
        return torch.cat((key, value), dim=-1).transpose(1, 2).unsqueeze(2)

    def key(self, key: Tensor, value: Tensor) -> Tensor:
        """Return what queries meet of it, ``[n, num_kv_heads, tokens, head_dim]``."""
        return key if self.latent_numbers is None else torch.cat((key, value), dim=-1)

    def parts(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens of pages ``[n, tokens, planes, num_kv_heads, head_dim]`` as a cache is handed them."""
        if self.latent_numbers is None:
            return tokens[:, :, 0].transpose(1, 2), tokens[:, :, 1].transpose(1, 2)
        latent = tokens[:, :, 0].transpose(1, 2)
        return latent[..., : self.latent_numbers], latent[..., self.latent_numbers :]


def held_by(config: Any) -> Held:
    """Return how tokens of a model lie in its pages."""
    return Held(latent_numbers=config.kv_lora_rank if getattr(config, "kv_lora_rank", None) else None)
