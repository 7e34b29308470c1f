"""What the attention of each layer is handed in a plain forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from kvsim.engine.model.dense import dense_attention
from kvsim.engine.model.families import attention_modules, decoder_layers

NAME = "kvsim-test-heard"


@dataclass
class Heard:
    """By place among the layers with pages."""

    queries: dict[int, torch.Tensor] = field(default_factory=dict)
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    options: dict[int, dict[str, Any]] = field(default_factory=dict)
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    rotary: dict[int, Any] = field(default_factory=dict)


@contextmanager
def heard(model: Any) -> Iterator[Heard]:
    """Yield what is heard of the last pass within the block."""
    found = Heard()
    places = {module: place for place, module in enumerate(attention_modules(model))}

    def attention(module, query, key, value, attention_mask, scaling=None, **others):
        if module in places:
            place = places[module]
            found.queries[place], found.keys[place] = query, key
            found.options[place] = {"scaling": scaling, **others}
        return dense_attention(module, query, key, value, attention_mask, scaling=scaling, **others)

    def hook(place):
        def hear(module, arguments, named):
            found.hidden[place], found.rotary[place] = arguments[0], named.get("position_embeddings")

        return hear

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    hooks = [
        layer.register_forward_pre_hook(hook(place), with_kwargs=True)
        for place, layer in enumerate(decoder_layers(model))
    ]
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield found
    finally:
        model.set_attn_implementation(before)
        for one in hooks:
            one.remove()
