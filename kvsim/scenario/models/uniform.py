"""What the paged decode simulator asks of a model: layers that all attend to the whole context, and all alike."""

from __future__ import annotations

from collections import Counter

from kvsim.errors import ScenarioError
from kvsim.scenario.models.attention import Attention
from kvsim.scenario.models.blocks import Layer
from kvsim.scenario.models.spec import ModelSpec


def uniform_attention(spec: ModelSpec) -> Attention:
    """Return the attention that every layer has.

    Raises
    ------
    ScenarioError
        If a layer remembers in another way, or layers have different heads; what differs is named.
    """
    kinds = Counter(layer.kind for layer in spec.layers)
    others = [f"{number} {_words(kind, spec)}" for kind, number in kinds.items() if kind != "full"]
    if others:
        raise ScenarioError(
            f"{spec.name}: pages of layers that attend to the whole context only; "
            f"of its {len(spec.layers)} layers {', '.join(others)}"
        )
    mixers = {mixer for layer in spec.layers for mixer in layer.mixers if isinstance(mixer, Attention)}
    widths = sorted({(mixer.num_heads, mixer.num_kv_heads, mixer.head_dim, mixer.value_dim) for mixer in mixers})
    if len(widths) > 1:
        raise ScenarioError(
            f"{spec.name}: pages of layers with the same heads only; its layers have {len(widths)} sorts"
        )
    return next(mixer for layer in spec.layers for mixer in layer.mixers if isinstance(mixer, Attention))


_WORDS = {
    "sliding": "attend to a window",
    "chunked": "attend to chunks",
    "shared": "read an earlier layer's keys",
    "latent": "hold a latent for all heads",
    "state": "hold a state",
    "none": "have no attention",
}


def _words(kind: str, spec: ModelSpec) -> str:
    words = " and ".join(_WORDS.get(part, "attend to the whole context") for part in kind.split(" + "))
    return f"{words} of {_window(spec.layers)} tokens" if kind in ("sliding", "chunked") else words


def _window(layers: tuple[Layer, ...]) -> str:
    sizes = {mixer.max_held_tokens for layer in layers for mixer in layer.mixers if isinstance(mixer, Attention)}
    return " or ".join(f"{size:,}" for size in sorted(size for size in sizes if size is not None))
