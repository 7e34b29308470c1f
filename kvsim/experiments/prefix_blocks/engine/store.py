"""Keys and values of prompt blocks, kept in slots and put back together: the bytes behind a prefix cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

from kvsim.engine.model.families import head_dim_of, num_kv_heads_of


class BlockStore:
    """Slots for blocks of `block_tokens` tokens of every layer, on the model's device.

    It holds bytes and decides nothing: a `kvsim.caches.prefix.PrefixCache` says which slot has which block.
    """

    def __init__(self, model: Any, *, num_slots: int, block_tokens: int) -> None:
        self._config = model.config
        self._block_tokens = block_tokens
        shape = (
            num_slots,
            model.config.num_hidden_layers,
            2,
            num_kv_heads_of(model.config),
            block_tokens,
            head_dim_of(model.config),
        )
        self._slots = torch.full(shape, float("nan"), dtype=model.dtype, device=model.device)
        """``[slot, layer, K or V, kv head, token, head_dim]``; a slot never written holds NaN, which would be seen."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all slots."""
        return self._slots.numel() * self._slots.element_size()

    def put(self, cache: DynamicCache, first_block: int, slots: Sequence[int]) -> None:
        """Keep the blocks of a prompt from `first_block` on, one in each of `slots`."""
        if not slots:
            return
        size, start = self._block_tokens, first_block * self._block_tokens
        places = torch.tensor(list(slots), device=self._slots.device)
        for layer, held in enumerate(cache.layers):
            states: Any = held
            for part, tensor in enumerate((states.keys, states.values)):  # [1, kv head, token, head_dim]
                run = tensor[0, :, start : start + len(slots) * size]
                blocks = run.unflatten(1, (len(slots), size)).transpose(0, 1)
                self._slots[places, layer, part] = blocks

    def restore(self, slots: Sequence[int], num_tokens: int) -> DynamicCache:
        """Return a cache of the first `num_tokens` tokens that the blocks in `slots` hold, in their order."""
        cache = DynamicCache(config=self._config)
        if not num_tokens:
            return cache
        blocks = self._slots[torch.tensor(list(slots), device=self._slots.device)]
        for layer in range(blocks.shape[1]):
            tokens = blocks[:, layer].permute(1, 2, 0, 3, 4).flatten(2, 3)[:, :, :num_tokens]
            cache.update(tokens[0].unsqueeze(0), tokens[1].unsqueeze(0), layer)
        return cache
