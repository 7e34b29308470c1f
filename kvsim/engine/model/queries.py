"""The query that an attention makes of its normalised input, family by family: what speculation scores pages with.

Each function takes the attention, its input ``[n, 1, hidden_size]`` and the positions' rotary embedding, if any, and
returns ``[n, num_heads, 1, head_dim]``. The rotation is the function of transformers that the attention itself calls.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

from torch import Tensor

Rotary: TypeAlias = tuple[Tensor, Tensor]


def plain(attention: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the query of a projection, rotated: Llama and most others."""
    return _rotated(attention, _heads(attention.q_proj(hidden), attention.head_dim), rotary)


def head_normalised(attention: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the query with a norm over each head before the rotation: Qwen 3, Gemma 3."""
    query = attention.q_norm(_heads(attention.q_proj(hidden), attention.head_dim))
    return _rotated(attention, query, rotary)


def normalised(attention: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the query with one norm over all heads before the rotation: OLMo 2."""
    query = attention.q_norm(attention.q_proj(hidden))
    return _rotated(attention, _heads(query, attention.head_dim), rotary)


def first_of_fused(attention: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the query of one projection for queries, keys and values, one after the other: Phi 3."""
    size = attention.config.num_attention_heads * attention.head_dim
    return _rotated(attention, _heads(attention.qkv_proj(hidden)[..., :size], attention.head_dim), rotary)


def fused_by_head(attention: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the query of one projection that has each head's query, key and value together: GPT-NeoX."""
    size = attention.head_size
    return _rotated(attention, _heads(attention.query_key_value(hidden), 3 * size)[..., :size], rotary)


def unrotated(attention: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the query of GPT-2's one projection: the position is in the hidden state."""
    del rotary
    return _heads(attention.c_attn(hidden)[..., : attention.embed_dim], attention.head_dim)


def rotated_where_configured(attention: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the query, rotated in layers that have a rotary embedding: SmolLM 3."""
    query = _heads(attention.q_proj(hidden), attention.head_dim)
    return _rotated(attention, query, rotary) if attention.use_rope else query


def rotated_in_windows(attention: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the query, rotated in layers that attend to a window: Cohere 2."""
    query = _heads(attention.q_proj(hidden), attention.head_dim)
    return query if attention.sliding_window is None else _rotated(attention, query, rotary)


def _heads(projected: Tensor, head_dim: int) -> Tensor:
    return projected.view(*projected.shape[:2], -1, head_dim).transpose(1, 2)


def _rotated(attention: Any, query: Tensor, rotary: Rotary | None) -> Tensor:
    assert rotary is not None
    module: Any = sys.modules[type(attention).__module__]
    rotated: Tensor = module.apply_rotary_pos_emb(query, query, *rotary)[0]
    return rotated
