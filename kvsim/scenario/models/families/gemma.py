"""Gemma 1 to 4: heads of their own width, tied tables, norms around every block, windows, shared keys."""

from __future__ import annotations

from dataclasses import replace

from kvsim.scenario.models.attention import Attention
from kvsim.scenario.models.blocks import Experts, Layer, Mlp
from kvsim.scenario.models.families.common import (
    attention,
    biased_attention,
    decoder,
    full_every,
    layer_kinds,
    layers_of,
    mlp,
    windowed,
    with_window,
)
from kvsim.scenario.models.fields import Fields
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.tensors import Tensor, linear, vector


def gemma(fields: Fields) -> ModelSpec:
    """Gemma 1."""
    return decoder(fields, layers_of(fields, biased_attention(fields), mlp(fields)), tied=True)


def gemma2(fields: Fields) -> ModelSpec:
    """Gemma 2: a window in every other layer, the first included; norms before and behind attention and MLP."""
    mixer = biased_attention(fields)
    mixers = windowed(fields, mixer, layer_kinds(fields, full_every(2)))
    return decoder(fields, layers_of(fields, mixers, mlp(fields), num_norms=4), tied=True)


def gemma3(fields: Fields) -> ModelSpec:
    """Gemma 3: the same with norms of queries and keys, and windows in five of six layers."""
    fields.refuse("use_bidirectional_attention", "attention to tokens that come later")
    period = fields.size("sliding_window_pattern", "_sliding_window_pattern", default=6)
    mixer = biased_attention(fields, norm="head")
    mixers = windowed(fields, mixer, layer_kinds(fields, full_every(period)))
    return decoder(fields, layers_of(fields, mixers, mlp(fields), num_norms=4), tied=True)


def gemma3n(fields: Fields) -> ModelSpec:
    """Gemma 3n: per-layer inputs, several residual streams (AltUp), and last layers that read earlier ones' keys."""
    hidden = fields.size("hidden_size")
    mixer = biased_attention(fields, norm="head")
    mixers = _shared(windowed(fields, mixer, layer_kinds(fields, full_every(5))), fields)
    widths = fields.sizes("intermediate_size")
    streams, rank, width = (
        fields.size(key) for key in ("altup_num_inputs", "laurel_rank", "hidden_size_per_layer_input")
    )
    extra = (
        *linear("mlp", width, hidden),
        *linear("mlp", hidden, width),
        *linear("mlp", rank, hidden),
        *linear("mlp", hidden, rank),
        *linear("mlp", streams, hidden),
        *linear("mlp", streams, streams),
        *linear("mlp", streams**2, streams),
        *vector("mlp", hidden),
    )
    layers = tuple(
        Layer(mixers=(mixer,), mlps=(Mlp(intermediate_size=size),), norm_numbers=7 * hidden, extra=extra)
        for mixer, size in zip(mixers, widths, strict=True)
    )
    outer = linear("mlp", hidden, hidden, copies=2 * (streams - 1))
    return decoder(fields, layers, tied=True, outer=(*_per_layer_tables(fields, width), *outer))


def _shared(mixers: list[Attention], fields: Fields) -> list[Attention]:
    """Return the same layers, the last of which have no keys of their own."""
    num_shared = fields.size("num_kv_shared_layers", default=0, least=0)
    first = len(mixers) - num_shared
    return [
        mixer if index < first else replace(mixer, reuses_keys=True, norm_numbers=mixer.head_dim)
        for index, mixer in enumerate(mixers)
    ]


def _per_layer_tables(fields: Fields, width: int) -> tuple[Tensor, ...]:
    """Return the weights that make per-layer inputs: a table for all layers, a projection and its norm."""
    packed = fields.num_layers() * width
    table = Tensor(part="embeddings", rows=fields.size("vocab_size_per_layer_input"), columns=packed)
    return (table, *linear("mlp", packed, fields.size("hidden_size")), *vector("norms", width))


def gemma4(fields: Fields) -> ModelSpec:
    """Gemma 4: full layers with wider heads, maybe per-layer inputs, shared keys, experts next to a dense MLP."""
    fields.refuse("use_bidirectional_attention", "attention to tokens that come later", unless=(None, "vision"))
    hidden = fields.size("hidden_size")
    narrow = with_window(attention(fields, norm="head"), fields.size("sliding_window"))
    wide = _wide(fields, narrow)
    mixers = _shared([narrow if kind == "sliding" else wide for kind in layer_kinds(fields, full_every(6))], fields)
    width = fields.size("hidden_size_per_layer_input", default=0, least=0)
    inputs = (*linear("mlp", width, hidden), *linear("mlp", hidden, width)) if width else ()
    has_experts = fields.flag("enable_moe_block", default=False)
    experts = (_experts(fields),) if has_experts else ()
    fields.ignore("vocab_size_per_layer_input", "moe_intermediate_size")  # there even without such a part
    num_norms = 4 + 3 * has_experts + (width > 0)
    is_wider = fields.flag("use_double_wide_mlp", default=False)
    dense = mlp(fields)
    layers = tuple(
        Layer(
            mixers=(mixer,),
            mlps=(replace(dense, intermediate_size=dense.intermediate_size * (1 + (is_wider and shared))), *experts),
            norm_numbers=num_norms * hidden,
            extra=inputs,
        )
        for mixer in mixers
        for shared in (mixer.reuses_keys,)
    )
    return decoder(fields, layers, tied=True, outer=_per_layer_tables(fields, width) if width else ())


def _wide(fields: Fields, narrow: Attention) -> Attention:
    """Return the attention of full layers: wider heads, and values that are the keys if the configuration asks."""
    width = fields.size("global_head_dim")
    is_one = fields.flag("attention_k_eq_v", default=False)
    num_kv_heads = fields.size("num_global_key_value_heads", default=narrow.num_kv_heads)
    return replace(
        narrow,
        window_tokens=None,
        head_dim=width,
        value_dim=width,
        num_kv_heads=num_kv_heads if is_one else narrow.num_kv_heads,
        values_are_keys=is_one,
        norm_numbers=2 * width,
    )


def _experts(fields: Fields) -> Experts:
    num_experts = fields.size("num_experts")
    return Experts(
        num_experts=num_experts,
        num_active=fields.size("top_k_experts"),
        expert=mlp(fields, key="moe_intermediate_size"),
        router_bias_numbers=fields.size("hidden_size") + num_experts,
    )
