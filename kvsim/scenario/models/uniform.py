"""What the paged decode simulator asks of a model: layers with pages that are alike, others a window or a state."""

from __future__ import annotations

from collections import Counter

from kvsim.scenario.models.attention import Attention
from kvsim.scenario.models.blocks import Layer
from kvsim.scenario.models.spec import ModelSpec


def differences(spec: ModelSpec, context_tokens: int | None = None) -> list[str]:
    """Return what keeps a model from being simulated page by page, in a few words each; empty where nothing does.

    A window or a chunk that is no shorter than the context drops nothing, and counts as the whole context. Layers that
    hold a sliding window or a state keep nothing from it where others attend to the whole context: they have no pages.

    Parameters
    ----------
    context_tokens
        The longest context; by default the positions that the model was made for.

    Examples
    --------
    >>> from kvsim.scenario.models.known import known_model
    >>> differences(known_model("gemma-2-9b")), differences(known_model("mistral-7b-v0.1"))
    ([], ['of its 32 layers 32 attend to a window of 4,096 tokens'])
    """
    limit = spec.max_positions if context_tokens is None else context_tokens
    kinds = Counter(layer.kind for layer in spec.layers if not _is_full(layer, limit))
    for kind in set(_without_pages(spec)):
        kinds.pop(kind, None)
    others = [f"{number} {_words(kind, spec)}" for kind, number in kinds.items()]
    if others:
        return [f"of its {len(spec.layers)} layers {', '.join(others)}"]
    heads = {(mixer.num_heads, mixer.num_kv_heads, mixer.head_dim, mixer.value_dim) for mixer in _attentions(spec)}
    if len(heads) > 1:
        return [f"its layers have heads of {len(heads)} sorts"]
    ((_, _, head_dim, value_dim),) = heads
    return [] if head_dim == value_dim else [f"its keys are {head_dim} wide and its values {value_dim}"]


def shortest_window(spec: ModelSpec) -> int | None:
    """Return the tokens that the layer with the shortest window holds; None where every layer holds all."""
    held = {mixer.max_held_tokens for mixer in _attentions(spec)}
    return min((size for size in held if size is not None), default=None)


def window_layers(spec: ModelSpec) -> int:
    """Return how many layers hold a sliding window beside others that hold every token; 0 where none of these is there.

    A window no shorter than the model's positions is none.

    Examples
    --------
    >>> from kvsim.scenario.models.known import known_model
    >>> window_layers(known_model("gemma-2-9b")), window_layers(known_model("llama-3-8b"))
    (21, 0)
    """
    return _without_pages(spec).count("sliding")


def state_layers(spec: ModelSpec) -> int:
    """Return how many layers hold a state of constant size beside others that hold every token; 0 where none does.

    Examples
    --------
    >>> from kvsim.scenario.models.known import known_model
    >>> state_layers(known_model("qwen3-next-80b-a3b")), state_layers(known_model("gemma-2-9b"))
    (36, 0)
    """
    return _without_pages(spec).count("state")


def _without_pages(spec: ModelSpec) -> list[str]:
    """Return the kinds of the layers without pages; none where others than these do not all hold every token."""
    others = [layer.kind for layer in spec.layers if not _is_full(layer, spec.max_positions)]
    return others if set(others) <= {"sliding", "state"} and len(others) < len(spec.layers) else []


def _is_full(layer: Layer, limit: int | None) -> bool:
    if len(layer.mixers) != 1 or not isinstance(layer.mixers[0], Attention) or layer.mixers[0].reuses_keys:
        return False
    held = layer.mixers[0].max_held_tokens
    return held is None or (limit is not None and held >= limit)


def _attentions(spec: ModelSpec) -> list[Attention]:
    return [mixer for layer in spec.layers for mixer in layer.mixers if isinstance(mixer, Attention)]


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
