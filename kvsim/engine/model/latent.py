"""Multi-head latent attention (DeepSeek): pages hold one latent a token for all heads, not keys and values.

transformers caches the latent and expands it to keys and values before attention. Over pages nothing is expanded: the
query is taken to the latent's own numbers, where its products are the same, and what is read is taken back to the
values of each head. After DeepSeek-V2 (arXiv 2405.04434), section 2.1.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from kvsim.engine.model.queries import Rotary


def query_v2(attention: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the query of DeepSeek-V2: its rotation is one of complex numbers."""
    query = _projected(attention, hidden)
    module: Any = sys.modules[type(attention).__module__]
    passed, turned = _split(attention, query)
    return torch.cat((passed, module.apply_rotary_emb(turned, turned, rotary)[0]), dim=-1)


def query_v3(attention: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the query of DeepSeek-V3: pairs of numbers lie side by side or half the head apart."""
    assert rotary is not None
    module: Any = sys.modules[type(attention).__module__]
    passed, turned = _split(attention, _projected(attention, hidden))
    interleaved = attention.config.rope_interleave
    rotate = module.apply_rotary_pos_emb_interleave if interleaved else module.apply_rotary_pos_emb
    return torch.cat((passed, rotate(turned, turned, *rotary)[0]), dim=-1)


def to_latent(attention: Any, query: Tensor) -> Tensor:
    """Return queries whose products with latents are those of `query` with keys, ``[n, num_heads, 1, latent]``."""
    passed, turned = _split(attention, query)
    inward, _ = _expansion(attention)
    return torch.cat((torch.einsum("nhqd,hdr->nhqr", passed, inward), turned), dim=-1)


def from_latent(attention: Any, output: Tensor) -> Tensor:
    """Return the values of each head from weighted sums of latents ``[n, 1, num_heads, latent]``."""
    _, outward = _expansion(attention)
    return torch.einsum("nqhr,hvr->nqhv", output[..., : attention.kv_lora_rank], outward)


def _projected(attention: Any, hidden: Tensor) -> Tensor:
    if attention.q_lora_rank is None:
        query = attention.q_proj(hidden)
    else:
        query = attention.q_b_proj(attention.q_a_layernorm(attention.q_a_proj(hidden)))
    heads: Tensor = query.view(*hidden.shape[:2], -1, attention.qk_head_dim).transpose(1, 2)
    return heads


def _split(attention: Any, query: Tensor) -> tuple[Tensor, Tensor]:
    """Return the part without a position and the rotated part."""
    passed, turned = torch.split(query, [attention.qk_nope_head_dim, attention.qk_rope_head_dim], dim=-1)
    return passed, turned


def _expansion(attention: Any) -> tuple[Tensor, Tensor]:
    """Return what makes keys and values of latents, by head: ``[num_heads, key numbers or value numbers, rank]``."""
    sizes = [attention.qk_nope_head_dim, attention.v_head_dim]
    weight: Tensor = attention.kv_b_proj.weight
    keys, values = torch.split(weight.view(attention.num_heads, sum(sizes), -1), sizes, dim=1)
    return keys, values
