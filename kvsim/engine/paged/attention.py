"""Attention over pages where they lie: the kernel, and the function registered with transformers as ``kvsim``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from transformers import AttentionInterface

from kvsim.engine.model.dense import dense_attention
from kvsim.engine.model.families import Rotary, attention_modules
from kvsim.engine.model.weighting import Weighting
from kvsim.engine.paged.speculation import listen

NAME = "kvsim"
"""What the registered attention is called. transformers makes no mask for it: sequences of a batch are alike long."""

_ATTRIBUTE = "kvsim_attends"


class Hears(Protocol):
    """Whatever wants to know what enters the layers."""

    def hear(self, hidden: torch.Tensor, rotary: Rotary | None) -> None:
        """Take what enters a layer, ``[num_sequences, 1, hidden_size]``."""


class Attends(Protocol):
    """Whatever answers a query of one layer from a cache of its own."""

    @property
    def speculation(self) -> Hears | None:
        """What wants to hear the layers, if anything does."""

    def attend(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """Return the attention output ``[num_sequences, 1, num_heads, head_dim]``.

        `query` is ``[num_sequences, num_heads, 1, head_dim]``.
        """


def attend_pages(
    query: torch.Tensor,
    slots: torch.Tensor,
    slot_indices: torch.Tensor,
    num_tokens: int,
    weighting: Weighting,
    seen: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return exact attention of one query a sequence over the first `num_tokens` tokens of its pages.

    Parameters
    ----------
    query
        ``[num_sequences, num_heads, 1, head_dim]``.
    slots
        The device pool, ``[num_slots, page_tokens, planes, num_kv_heads, head_dim]``: keys first, values last.
    slot_indices
        Slots of each sequence's pages in order, ``[num_sequences, num_pages]``.
    seen
        Whether each of these tokens is one that the sequence has, ``[num_sequences, num_tokens]``; all where absent.

    Returns
    -------
    torch.Tensor
        ``[num_sequences, 1, num_heads, head_dim]``.
    """
    num_sequences, num_heads, _, head_dim = query.shape
    num_kv_heads = slots.shape[3]
    gathered = slots.index_select(0, slot_indices.flatten())
    tokens = gathered.view(num_sequences, -1, *slots.shape[2:])[:, :num_tokens]
    keys, values = tokens[:, :, 0].transpose(1, 2), tokens[:, :, -1].transpose(1, 2)  # [sequence, kv head, token, dim]
    # The heads that share a KV head are rows of one product: no key is repeated.
    grouped = query.view(num_sequences, num_kv_heads, num_heads // num_kv_heads, head_dim)
    mask = None if seen is None else seen[:, None, None]
    if weighting.is_plain:
        output = nn.functional.scaled_dot_product_attention(
            grouped, keys, values, attn_mask=mask, scale=weighting.scaling
        )
    else:
        products = (grouped @ keys.transpose(-1, -2)).view(num_sequences, num_heads, 1, -1)
        output = weighting.weights(products, mask).to(query.dtype).view(*grouped.shape[:-1], -1) @ values
    return output.reshape(num_sequences, 1, num_heads, head_dim)


def paged_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Answer a layer's query from the pages of the run that `attached` put on the module; the new token is there.

    A layer without pages has its window handed over by its own cache.
    """
    answers: tuple[Attends, int] | None = getattr(module, _ATTRIBUTE, None)
    if answers is None:
        return dense_attention(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    run, layer = answers
    return run.attend(layer, query), None


@contextmanager
def attached(model: Any, run: Attends) -> Iterator[None]:
    """Let `run` answer the attention of every layer with pages while the block runs."""
    before = model.config._attn_implementation
    modules = attention_modules(model)
    AttentionInterface.register(NAME, paged_attention)
    model.set_attn_implementation(NAME)
    for layer, module in enumerate(modules):
        setattr(module, _ATTRIBUTE, (run, layer))
    handles = listen(model, run.speculation.hear) if run.speculation is not None else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in modules:
            delattr(module, _ATTRIBUTE)
        model.set_attn_implementation(before)
