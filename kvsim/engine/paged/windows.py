"""The cache layers of a model whose layers with a sliding window hold it on the device, beside layers with pages."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers.cache_utils import DynamicSlidingWindowLayer

from kvsim.engine.model.families import head_dim_of, num_kv_heads_of
from kvsim.engine.model.layers import paged_layers, window_layers
from kvsim.engine.paged.cache import Keeps, PagedLayer
from kvsim.engine.paged.prefill import Snapshot


def cache_layers(model: Any, run: Keeps, snapshot: Snapshot | None = None) -> list[Any]:
    """Return the layers of a cache for `model`: pages of `run`, and windows that begin with those of `snapshot`.

    Without a snapshot they begin empty.
    """
    paged = [PagedLayer(run, place) for place in range(len(paged_layers(model.config)))]
    windows = {
        layer: DynamicSlidingWindowLayer(window) if snapshot is None else _begun(model, snapshot, layer, window)
        for layer, window in window_layers(model.config).items()
    }
    in_order = iter(paged)
    return [windows.get(layer) or next(in_order) for layer in range(model.config.num_hidden_layers)]


def copied_windows(layers: list[Any]) -> dict[int, Any]:
    """Return copies of the windows among the layers of a cache, by their place."""
    return {place: copy.deepcopy(layer) for place, layer in enumerate(layers) if layer.is_sliding}


def _begun(model: Any, snapshot: Snapshot, layer: int, window: int) -> Any:
    """Return a window that goes on from the prompt's; one of zeros where a snapshot of random tokens has none."""
    if layer in snapshot.windows:
        return copy.copy(snapshot.windows[layer])  # an update makes new tensors and leaves these as they are
    held = min(snapshot.prompt_tokens, window - 1)
    heads, dim = num_kv_heads_of(model.config), head_dim_of(model.config)
    nothing = torch.zeros((snapshot.num_sequences, heads, held, dim), dtype=model.dtype, device=model.device)
    begun = DynamicSlidingWindowLayer(window)
    begun.update(nothing, nothing)
    begun.cumulative_length = snapshot.prompt_tokens
    return begun
