"""Which layers of a model have pages: those that attend to the whole context, or all, where every one has a window.

A layer with a sliding window needs its last tokens only. Beside layers without one it holds these on the device and has
no pages. Where all layers have a window, each has pages up to it, and a context beyond it is refused: nothing would be
left to page.
"""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache


def windows_of(config: Any) -> tuple[int | None, ...]:
    """Return the window of every layer in tokens, the query's own among them; None where it sees the whole context."""
    layers: list[Any] = DynamicCache(config=config).layers
    return tuple(int(layer.sliding_window) if layer.is_sliding else None for layer in layers)


def paged_layers(config: Any) -> tuple[int, ...]:
    """Return the layers that have pages, by their place in the model."""
    windows = windows_of(config)
    whole = tuple(place for place, window in enumerate(windows) if window is None)
    return whole or tuple(range(len(windows)))


def window_layers(config: Any) -> dict[int, int]:
    """Return the windows of the layers that have no pages, by the layer's place in the model."""
    paged = set(paged_layers(config))
    return {place: window for place, window in enumerate(windows_of(config)) if window and place not in paged}


def window_of_all(config: Any) -> int | None:
    """Return the shortest window where every layer has one; None where some see the whole context."""
    windows = [window for window in windows_of(config) if window is not None]
    return min(windows) if len(windows) == len(windows_of(config)) else None
