"""What most families share: attention, MLPs and layers read from the usual keys, and the model around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from kvsim.scenario.models.attention import Attention
from kvsim.scenario.models.blocks import Experts, Layer, Mixer, Mlp
from kvsim.scenario.models.fields import Fields
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.tensors import Tensor, vector

ATTENTION_KINDS = {"full_attention": "full", "sliding_attention": "sliding"}
"""transformers' words for kinds of layers in kvsim's."""

QueryKeyNorm = Literal["head", "projection", "heads"]
"""Norms of queries and keys: one vector for every head, one over the whole projection, or one for each head."""


def attention(
    fields: Fields,
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    norm: QueryKeyNorm | None = None,
) -> Attention:
    """Return full attention from the usual keys; heads share the hidden size where `head_dim` is missing."""
    num_heads = fields.size("num_attention_heads")
    num_kv_heads = fields.size("num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads and num_heads == fields.raw("num_attention_heads"):  # else that is what is wrong
        fields.wrong(f"num_attention_heads should be a multiple of num_key_value_heads, {num_kv_heads}, is {num_heads}")
    width = fields.size("head_dim", default=max(fields.size("hidden_size") // num_heads, 1))
    norm_numbers = {None: 0, "head": 2 * width}.get(norm, (num_heads + num_kv_heads) * width)
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=width,
        value_dim=width,
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        norm_numbers=norm_numbers,
    )


def biased_attention(
    fields: Fields, key: str = "attention_bias", *, default: bool = False, norm: QueryKeyNorm | None = None
) -> Attention:
    """Return full attention in which a flag says whether its four projections have biases."""
    bias = fields.flag(key, default=default)
    return attention(fields, qkv_bias=bias, out_bias=bias, norm=norm)


def mlp(fields: Fields, *, bias: bool = False, is_gated: bool = True, key: str = "intermediate_size") -> Mlp:
    """Return an MLP of the width that a key names."""
    return Mlp(intermediate_size=fields.size(key), is_gated=is_gated, up_bias=bias, down_bias=bias)


def layer_kinds(fields: Fields, usual: Callable[[int], str]) -> list[str]:
    """Return ``full`` or ``sliding`` for each layer: from `layer_types`, or as the family's code has it by default."""
    listed = fields.words("layer_types", ATTENTION_KINDS)
    return listed if listed is not None else [usual(index) for index in range(fields.num_layers())]


def same_window(fields: Fields) -> list[str]:
    """Return ``sliding`` for every layer where the configuration has a window, else ``full``."""
    return ["sliding" if "sliding_window" in fields else "full"] * fields.num_layers()


def full_every(period: int) -> Callable[[int], str]:
    """Return a rule by which every `period`-th layer attends to everything and the others to a window."""
    return lambda index: "sliding" if (index + 1) % period else "full"


def windowed(fields: Fields, full: Attention, kinds: Iterable[str]) -> list[Attention]:
    """Return the attention of each layer, in a window of `sliding_window` tokens where it is ``sliding``."""
    kinds = list(kinds)
    window = fields.size("sliding_window") if "sliding" in kinds else None
    return [with_window(full, window) if kind == "sliding" else full for kind in kinds]


def with_window(full: Attention, window_tokens: int | None) -> Attention:
    """Return the same attention to the last `window_tokens` only."""
    return replace(full, window_tokens=window_tokens)


def layers_of(
    fields: Fields,
    mixers: Sequence[Mixer] | Mixer,
    mlps: Sequence[Mlp | Experts] | Mlp | Experts,
    *,
    num_norms: int = 2,
    norm_bias: bool = False,
) -> tuple[Layer, ...]:
    """Return the layers, with norms of the hidden size; a mixer or an MLP by itself is that of every layer."""
    mixers = mixers if isinstance(mixers, Sequence) else [mixers] * fields.num_layers()
    mlps = mlps if isinstance(mlps, Sequence) else [mlps] * len(mixers)
    norm_numbers = num_norms * fields.size("hidden_size") * (2 if norm_bias else 1)
    return tuple(
        Layer(mixers=(mixer,), mlps=(part,), norm_numbers=norm_numbers)
        for mixer, part in zip(mixers, mlps, strict=True)
    )


def decoder(
    fields: Fields,
    layers: tuple[Layer, ...],
    *,
    tied: bool = False,
    norm_bias: bool = False,
    has_final_norm: bool = True,
    has_head_bias: bool = False,
    outer: tuple[Tensor, ...] = (),
    state_dtype: str | None = None,
) -> ModelSpec:
    """Return the model around its layers: embedding table, final norm, head, positions.

    Parameters
    ----------
    tied
        Whether head and table are one where `tie_word_embeddings` is missing.
    """
    hidden_size = fields.size("hidden_size")
    final_norm = vector("norms", hidden_size * (2 if norm_bias else 1) * has_final_norm)
    return ModelSpec(
        name="",
        model_type="",
        dtype=None,
        hidden_size=hidden_size,
        vocab_size=fields.size("vocab_size"),
        tied_embeddings=fields.tied(default=tied),
        has_head_bias=has_head_bias,
        layers=layers,
        max_positions=fields.optional_size("max_position_embeddings"),
        outer=(*outer, *final_norm),
        state_dtype=state_dtype,
    )
