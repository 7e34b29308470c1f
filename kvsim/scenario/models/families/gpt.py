"""Models with layer norms that have biases and, mostly, plain MLPs: GPT-2 and other models from before Llama."""

from __future__ import annotations

from dataclasses import replace

from kvsim.scenario.models.attention import Attention
from kvsim.scenario.models.blocks import Mlp
from kvsim.scenario.models.families.common import (
    attention,
    biased_attention,
    decoder,
    layers_of,
    mlp,
    same_window,
    windowed,
)
from kvsim.scenario.models.fields import Fields
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.tensors import Tensor, linear, vector


def gpt2(fields: Fields) -> ModelSpec:
    """GPT-2, and GPTBigCode (SantaCoder, StarCoder), whose heads may share one key and value (``multi_query``)."""
    fields.refuse("add_cross_attention", "cross attention")
    mixer = _every_head(fields, bias=True)
    if fields.flag("multi_query", default=False):
        mixer = replace(mixer, num_kv_heads=1)
    spec = decoder(
        fields,
        layers_of(fields, mixer, _four_times(fields, bias=True), norm_bias=True),
        tied=True,
        norm_bias=True,
        outer=_positions(fields, fields.size("max_position_embeddings")),
    )
    return replace(spec, has_position_limit=True)


def _every_head(fields: Fields, *, bias: bool) -> Attention:
    """Return attention in which every head has a key and a value, whatever other keys say."""
    num_heads = fields.size("num_attention_heads")
    width = max(fields.size("hidden_size") // num_heads, 1)
    return Attention(
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=width,
        value_dim=width,
        qkv_bias=bias,
        out_bias=bias,
    )


def _four_times(fields: Fields, *, bias: bool) -> Mlp:
    """Return a plain MLP of four times the hidden size where no width is set."""
    width = fields.size("intermediate_size", default=4 * fields.size("hidden_size"))
    return Mlp(intermediate_size=width, is_gated=False, up_bias=bias, down_bias=bias)


def _positions(fields: Fields, num_rows: int) -> tuple[Tensor, ...]:
    return (Tensor(part="positions", rows=num_rows, columns=fields.size("hidden_size")),)


def gptj(fields: Fields) -> ModelSpec:
    """GPT-J: attention and MLP read one norm; the head has a bias."""
    layers = layers_of(
        fields, _every_head(fields, bias=False), _four_times(fields, bias=True), num_norms=1, norm_bias=True
    )
    return decoder(fields, layers, norm_bias=True, has_head_bias=True)


def gpt_neox(fields: Fields) -> ModelSpec:
    """GPT-NeoX and Pythia."""
    mixer = _every_head(fields, bias=fields.flag("attention_bias", default=True))
    part = mlp(fields, bias=True, is_gated=False)
    return decoder(fields, layers_of(fields, mixer, part, norm_bias=True), norm_bias=True)


def bloom(fields: Fields) -> ModelSpec:
    """BLOOM: no positions but slopes (ALiBi), a norm on the embeddings."""
    layers = layers_of(fields, _every_head(fields, bias=True), _four_times(fields, bias=True), norm_bias=True)
    embedding_norm = vector("norms", 2 * fields.size("hidden_size"))
    return decoder(fields, layers, tied=True, norm_bias=True, outer=embedding_norm)


def opt(fields: Fields) -> ModelSpec:
    """OPT: learned positions with two rows more than positions, maybe a narrower table with projections."""
    if not fields.flag("layer_norm_elementwise_affine", default=True):
        fields.refuse("layer_norm_elementwise_affine", "layer norms without weights", unless=())
    bias = fields.flag("enable_bias", default=True)
    part = Mlp(intermediate_size=fields.size("ffn_dim"), is_gated=False, up_bias=bias, down_bias=bias)
    hidden, width = fields.size("hidden_size"), fields.optional_size("word_embed_proj_dim")
    is_narrow = width is not None and width != hidden
    ways = (*linear("mlp", hidden, width), *linear("mlp", width, hidden)) if width is not None and is_narrow else ()
    removes_norm = fields.flag("_remove_final_layer_norm", default=False)
    spec = decoder(
        fields,
        layers_of(fields, _every_head(fields, bias=bias), part, norm_bias=True),
        tied=True,
        norm_bias=True,
        has_final_norm=fields.flag("do_layer_norm_before", default=True) and not removes_norm,
        outer=(*_positions(fields, fields.size("max_position_embeddings") + 2), *ways),
    )
    return replace(spec, has_position_limit=True, embedding_size=width if is_narrow else None)


def falcon(fields: Fields) -> ModelSpec:
    """Falcon: one key and value for all heads (7B), or groups (40B, 180B), or none shared (RW)."""
    bias = fields.flag("bias", default=False)
    mixer = _every_head(fields, bias=bias)
    is_new = fields.flag("new_decoder_architecture", default=False)
    if is_new:
        mixer = replace(mixer, num_kv_heads=fields.size("num_kv_heads", default=mixer.num_heads))
    elif fields.flag("multi_query", default=True):
        mixer = replace(mixer, num_kv_heads=1)
    is_parallel = fields.flag("parallel_attn", default=True)
    num_norms = 2
    if is_parallel and fields.size("num_ln_in_parallel_attn", default=2 if is_new else 1) != 2:
        num_norms = 1
    width = fields.size("ffn_hidden_size", default=4 * fields.size("hidden_size"))
    part = Mlp(intermediate_size=width, is_gated=False, up_bias=bias, down_bias=bias)
    return decoder(
        fields, layers_of(fields, mixer, part, num_norms=num_norms, norm_bias=True), tied=True, norm_bias=True
    )


def starcoder2(fields: Fields) -> ModelSpec:
    """StarCoder2: biases everywhere, a window in every layer where one is set."""
    mixer = biased_attention(fields, "use_bias", default=True)
    mixers = windowed(fields, mixer, same_window(fields))
    part = mlp(fields, bias=mixer.qkv_bias, is_gated=False)
    return decoder(fields, layers_of(fields, mixers, part, norm_bias=True), tied=True, norm_bias=True)


def phi(fields: Fields) -> ModelSpec:
    """Phi-1 to Phi-2: attention and MLP read one norm, biases everywhere, the head included."""
    mixer = attention(fields, qkv_bias=True, out_bias=True)
    if fields.flag("qk_layernorm", default=False):
        mixer = replace(mixer, norm_numbers=4 * mixer.head_dim)
    layers = layers_of(fields, mixer, mlp(fields, bias=True, is_gated=False), num_norms=1, norm_bias=True)
    return decoder(fields, layers, norm_bias=True, has_head_bias=True)
