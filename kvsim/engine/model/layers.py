"""Which layers of a model have pages: those that attend to the whole context, or all, where every one has a window.

A layer with linear attention, a state space or a short convolution holds a state of constant size, and has no pages.

A layer with a sliding window needs its last tokens only. Beside layers without one it holds these on the device and has
no pages. Where all layers have a window, each has pages up to it, and a context beyond it is refused: nothing would be
left to page.
"""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin


def windows_of(config: Any) -> tuple[int | None, ...]:
    """Return the window of every layer in tokens, the query's own among them; None where it has none."""
    layers: list[Any] = DynamicCache(config=config).layers
    return tuple(int(layer.sliding_window) if getattr(layer, "is_sliding", False) else None for layer in layers)


def state_layers(config: Any) -> tuple[int, ...]:
    """Return the layers that hold a state and no keys, by their place in the model."""
    layers: list[Any] = DynamicCache(config=config).layers
    return tuple(place for place, layer in enumerate(layers) if not isinstance(layer, CacheLayerMixin))


def paged_layers(config: Any) -> tuple[int, ...]:
    """Return the layers that have pages, by their place in the model."""
    states = set(state_layers(config))
    windows = {place: window for place, window in enumerate(windows_of(config)) if place not in states}
    whole = tuple(place for place, window in windows.items() if window is None)
    return whole or tuple(windows)


def unpaged_layers(config: Any) -> tuple[int, ...]:
    """Return the layers that have no pages, by their place in the model."""
    paged = set(paged_layers(config))
    return tuple(place for place in range(config.num_hidden_layers) if place not in paged)


def window_layers(config: Any) -> dict[int, int]:
    """Return the windows of the layers that have no pages, by the layer's place in the model."""
    paged = set(paged_layers(config))
    return {place: window for place, window in enumerate(windows_of(config)) if window and place not in paged}


def window_of_all(config: Any) -> int | None:
    """Return the shortest window where every layer with keys has one; None where some see the whole context."""
    windows = windows_of(config)
    of_paged = [window for place in paged_layers(config) if (window := windows[place]) is not None]
    return min(of_paged, default=None)
