"""Attention over all keys as a model has them: SDPA, or computed plainly where a cap or sinks are beyond SDPA."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kvsim.engine.model.family_table import Family
from kvsim.engine.model.weighting import Weighting

NAME = "kvsim-dense"
"""What the registered attention is called."""


def dense_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to all keys; arguments and result are those of transformers' attention functions."""
    if softcap is None and s_aux is None:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return output
    weighting = Weighting(scaling=scaling or query.shape[-1] ** -0.5, softcap=softcap, sinks=s_aux)
    return _attend(weighting, query, key, value, _causal(query, key, attention_mask)), None


def dense_name(family: Family) -> str:
    """Return the attention function that computes a family densely: SDPA where it can, else ours, registered."""
    if family.uses_sdpa:
        return "sdpa"
    AttentionInterface.register(NAME, dense_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def _attend(
    weighting: Weighting, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Return the output of plain attention, ``[num_sequences, queries, num_heads, head_dim]``."""
    repeats = query.shape[1] // key.shape[1]
    keys, values = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    weights = weighting.weights(query @ keys.transpose(-1, -2), mask)
    return (weights.to(query.dtype) @ values).transpose(1, 2).contiguous()


def _causal(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return the mask, or that of a prompt alone, which transformers leaves out for SDPA to make."""
    if mask is not None or query.shape[2] == 1:
        return mask
    sees_all = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    return sees_all.tril(key.shape[2] - query.shape[2])
