"""Prefill once a context: keys and values of the whole prompt in host memory, from which any number of runs start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from kvsim.engine.model.first_token import prefill_logits
from kvsim.engine.model.held import Held, held_by
from kvsim.engine.model.layers import paged_layers, unpaged_layers
from kvsim.types import IntArray

_ROOM_FACTOR_TOKENS = 128
"""Room is a multiple of this, so that it is a whole number of pages of 16, 32, 64 and 128 tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What prefill left: the prompt's keys and values, and the token that follows."""

    tokens: torch.Tensor
    """``[num_sequences, num_layers, room, planes, num_kv_heads, head_dim]``; past the prompt runs write their own."""
    prompt_tokens: int
    """Tokens of the longest prompt."""
    next_token: torch.Tensor
    """Greedy next token, ``[num_sequences, 1]``."""
    unpaged: Mapping[int, Any] = field(default_factory=dict)
    """transformers' cache layers that hold a sliding window or a state and have no pages, by their place in the model.

    There shorter prompts are padded on the left.
    """
    unequal_tokens: tuple[int, ...] | None = None
    """Tokens of each prompt, each from the first place of `tokens` on; None where all have `prompt_tokens`."""

    @property
    def num_sequences(self) -> int:
        """Sequences of the batch."""
        return int(self.tokens.shape[0])

    @property
    def num_layers(self) -> int:
        """Layers that have pages."""
        return int(self.tokens.shape[1])

    @property
    def sequence_tokens(self) -> IntArray:
        """Tokens of each prompt, ``[num_sequences]``."""
        return np.array(self.unequal_tokens or (self.prompt_tokens,) * self.num_sequences, dtype=np.int64)

    def layer_prompt(self, layer: int, device: torch.device | str) -> torch.Tensor:
        """Return the prompt of a layer on `device`, ``[num_sequences, prompt_tokens, 2, num_kv_heads, head_dim]``.

        To a GPU it travels sequence by sequence: each is one contiguous copy from pinned memory.
        """
        whole = self.tokens[:, layer, : self.prompt_tokens]
        if torch.device(device).type == "cpu":
            return whole
        return torch.stack([own.to(device, non_blocking=True) for own in whole])

    def layer_keys(self, device: str) -> Iterator[torch.Tensor]:
        """Yield the prompt's keys of each layer on `device`, ``[num_sequences, tokens, num_kv_heads, head_dim]``."""
        for layer in range(self.num_layers):
            yield self.layer_prompt(layer, device)[:, :, 0]


def prefill(
    model: Any,
    token_ids: torch.Tensor,
    *,
    room_tokens: int,
    chunk_tokens: int = 512,
    sequence_tokens: Sequence[int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Snapshot:
    """Run the prompts through `model` with its own attention, in chunks, and return their keys and values.

    Parameters
    ----------
    token_ids
        ``[num_sequences, prompt_tokens]``, shorter prompts padded on the left with any token.
    sequence_tokens
        Tokens of each prompt without its padding, the longest `prompt_tokens`; all have that many where absent. Padding
        is attended to by nobody, takes no position and is not in the snapshot.
    room_tokens
        Tokens to decode after the prompt, at most.
    progress
        Called with the tokens of each chunk done.
    """
    prompt_tokens = token_ids.shape[1]
    unequal = None if sequence_tokens is None or len({*sequence_tokens}) == 1 else tuple(sequence_tokens)
    cache = DynamicCache(config=model.config)
    positions, mask = (None, None) if unequal is None else left_padding(unequal, prompt_tokens, model.device)
    logits = prefill_logits(
        model, token_ids, cache, chunk_tokens=chunk_tokens, positions=positions, mask=mask, progress=progress
    )
    layers: list[Any] = cache.layers
    paged = [layers[place] for place in paged_layers(model.config)]
    tokens = _host_tokens(paged, held_by(model.config), room=prompt_tokens + room_tokens)
    for sequence, own_tokens in enumerate(unequal or ()):
        own = tokens[sequence, :, :prompt_tokens]
        own.copy_(torch.cat((own[:, prompt_tokens - own_tokens :], own.new_zeros(own[:, own_tokens:].shape)), dim=1))
    return Snapshot(
        tokens=tokens,
        prompt_tokens=prompt_tokens,
        next_token=logits.argmax(dim=-1, keepdim=True).cpu(),
        unpaged={place: copy.deepcopy(layers[place]) for place in unpaged_layers(model.config)},
        unequal_tokens=unequal,
    )


def left_padding(
    sequence_tokens: Sequence[int], padded_tokens: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions and attention mask of prompts padded on the left, ``[num_sequences, padded_tokens]`` each.

    They are what `generate` makes of a tokenizer's padding: tokens count from 0 on, and padding has position 0.
    """
    places = torch.arange(padded_tokens, device=device) - padded_tokens
    places = places + torch.tensor(sequence_tokens, device=device)[:, None]
    return places.clamp(min=0), (places >= 0).long()


def _host_tokens(layers: list[Any], held: Held, room: int) -> torch.Tensor:
    first: torch.Tensor = layers[0].keys
    num_sequences, length = first.shape[0], first.shape[2]
    room = -(-room // _ROOM_FACTOR_TOKENS) * _ROOM_FACTOR_TOKENS
    shape = (num_sequences, len(layers), room, *held.planes(first, layers[0].values).shape[2:])
    tokens = torch.zeros(shape, dtype=first.dtype, pin_memory=first.is_cuda)
    for place, layer in enumerate(layers):
        tokens[:, place, :length] = held.planes(layer.keys, layer.values).cpu()
    return tokens
