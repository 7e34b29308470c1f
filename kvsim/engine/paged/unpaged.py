"""The cache layers of a model whose layers without pages hold a window or a state on the device, beside the others."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import DynamicCache

from kvsim.engine.model.families import head_dim_of, num_kv_heads_of
from kvsim.engine.model.layers import paged_layers, unpaged_layers, window_layers
from kvsim.engine.paged.cache import Keeps, PagedLayer
from kvsim.engine.paged.prefill import Snapshot


def cache_layers(model: Any, run: Keeps, snapshot: Snapshot | None = None) -> list[Any]:
    """Return the layers of a cache for `model`: pages of `run`, and windows and states, as transformers makes them.

    These begin with those of `snapshot`; without one they begin empty.
    """
    layers: list[Any] = DynamicCache(config=model.config).layers
    for place, layer in enumerate(paged_layers(model.config)):
        layers[layer] = PagedLayer(run, place)
    if snapshot is not None:
        for place in unpaged_layers(model.config):
            layers[place] = _begun(model, snapshot, place, layers[place])
    return layers


def copied_unpaged(layers: list[Any]) -> dict[int, Any]:
    """Return copies of the layers of a cache that have no pages, by their place."""
    with torch.inference_mode(False):  # a state is written in place: it must be an ordinary tensor in any mode
        return {place: copy.deepcopy(one) for place, one in enumerate(layers) if not isinstance(one, PagedLayer)}


def _begun(model: Any, snapshot: Snapshot, place: int, empty: Any) -> Any:
    """Return a layer that goes on from the prompt's; where a snapshot of random tokens has none, a window of zeros.

    A state begins empty there, and is made in the first step.
    """
    if place in snapshot.unpaged:
        return copy.deepcopy(snapshot.unpaged[place])  # states are written in place
    window = window_layers(model.config).get(place)
    if window is None:
        return empty
    held = min(snapshot.prompt_tokens, window - 1)
    heads, dim = num_kv_heads_of(model.config), head_dim_of(model.config)
    nothing = torch.zeros((snapshot.num_sequences, heads, held, dim), dtype=model.dtype, device=model.device)
    empty.update(nothing, nothing)
    empty.cumulative_length = snapshot.prompt_tokens
    return empty
