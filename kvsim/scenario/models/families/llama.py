"""Dense models with rotary positions and RMS norms: Llama and its many relatives."""

from __future__ import annotations

from dataclasses import replace

from kvsim.scenario.models.families.common import (
    ATTENTION_KINDS,
    QueryKeyNorm,
    alike,
    attention,
    decoder,
    full_every,
    layer_kinds,
    layers_of,
    mlp,
    windowed,
)
from kvsim.scenario.models.fields import Fields
from kvsim.scenario.models.spec import ModelSpec


def llama(fields: Fields) -> ModelSpec:
    """Llama 1 to 3, and what calls itself so: Yi, SmolLM2, Granite 2, ...; also Granite 3 (``granite``)."""
    bias = fields.flag("attention_bias", default=False)
    mixer = attention(fields, qkv_bias=bias, out_bias=bias)
    return decoder(fields, alike(fields, mixer, mlp(fields, bias=fields.flag("mlp_bias", default=False))))


def smollm3(fields: Fields) -> ModelSpec:
    """SmolLM3: Llama in which some layers do without rotary positions; tied by default."""
    fields.refuse("use_sliding_window", "a sliding window that only some layers have")
    bias = fields.flag("attention_bias", default=False)
    mixer = attention(fields, qkv_bias=bias, out_bias=bias)
    kinds = layer_kinds(fields, fields.num_layers(), full_every(1))
    part = mlp(fields, bias=fields.flag("mlp_bias", default=False))
    return decoder(
        fields, layers_of(fields, windowed(fields, mixer, kinds), [part] * len(kinds), num_norms=2), tied=True
    )


def mistral(fields: Fields) -> ModelSpec:
    """Mistral, Ministral 3, Phi-3 and Phi-4: a window in every layer where `sliding_window` is set."""
    kinds = _same_window(fields)
    mixers = windowed(fields, attention(fields), kinds)
    return decoder(fields, layers_of(fields, mixers, [mlp(fields)] * len(kinds), num_norms=2))


def ministral(fields: Fields) -> ModelSpec:
    """Ministral: layers named in `layer_types`, or all with a window."""
    listed = fields.words("layer_types", fields.num_layers(), ATTENTION_KINDS)
    kinds = listed if listed is not None else _same_window(fields)
    mixers = windowed(fields, attention(fields), kinds)
    return decoder(fields, layers_of(fields, mixers, [mlp(fields)] * len(kinds), num_norms=2))


def _same_window(fields: Fields) -> list[str]:
    return ["sliding" if "sliding_window" in fields else "full"] * fields.num_layers()


def qwen2(fields: Fields) -> ModelSpec:
    """Qwen2 and Qwen2.5: biases on queries, keys and values."""
    kinds = qwen_kinds(fields)
    mixers = windowed(fields, attention(fields, qkv_bias=True), kinds)
    return decoder(fields, layers_of(fields, mixers, [mlp(fields)] * len(kinds), num_norms=2))


def qwen3(fields: Fields) -> ModelSpec:
    """Qwen3: norms of queries and keys, heads of 128."""
    kinds = qwen_kinds(fields)
    bias = fields.flag("attention_bias", default=False)
    mixer = attention(fields, norm="head", qkv_bias=bias, out_bias=bias)
    return decoder(fields, layers_of(fields, windowed(fields, mixer, kinds), [mlp(fields)] * len(kinds), num_norms=2))


def qwen_kinds(fields: Fields) -> list[str]:
    """Return the kinds of Qwen's layers: windows only if `use_sliding_window`, from layer `max_window_layers` on."""
    num_layers = fields.num_layers()
    first = fields.size("max_window_layers", default=num_layers, least=0)
    in_use = fields.flag("use_sliding_window", default=False) and "sliding_window" in fields
    fields.ignore("sliding_window")  # it is there even where it is not in use
    return layer_kinds(fields, num_layers, lambda index: "sliding" if in_use and index >= first else "full")


def olmo(fields: Fields) -> ModelSpec:
    """OLMo 1: norms without weights."""
    bias = fields.flag("attention_bias", default=False)
    mixer = attention(fields, qkv_bias=bias, out_bias=bias)
    return decoder(fields, alike(fields, mixer, mlp(fields), num_norms=0), has_final_norm=False)


def olmo2(fields: Fields) -> ModelSpec:
    """OLMo 2 and 3: norms behind attention and MLP, and over all queries and all keys; OLMo 3 with windows."""
    bias = fields.flag("attention_bias", default=False)
    mixer = attention(fields, norm="projection", qkv_bias=bias, out_bias=bias)
    usual = full_every(4) if "sliding_window" in fields else full_every(1)
    kinds = layer_kinds(fields, fields.num_layers(), usual)
    return decoder(fields, layers_of(fields, windowed(fields, mixer, kinds), [mlp(fields)] * len(kinds), num_norms=2))


def glm(fields: Fields) -> ModelSpec:
    """GLM-4 9B (``glm``): biases on queries, keys and values, heads of 128."""
    mixer = attention(fields, qkv_bias=fields.flag("attention_bias", default=True))
    return decoder(fields, alike(fields, mixer, mlp(fields)))


def glm4(fields: Fields) -> ModelSpec:
    """GLM-4-0414 (``glm4``): the same with norms behind attention and MLP besides."""
    mixer = attention(fields, qkv_bias=fields.flag("attention_bias", default=True))
    return decoder(fields, alike(fields, mixer, mlp(fields), num_norms=4))


def exaone4(fields: Fields) -> ModelSpec:
    """EXAONE 4: norms behind attention and MLP, and of queries and keys; windows in three of four layers or none."""
    usual = full_every(_exaone_period(fields)) if "sliding_window" in fields else full_every(1)
    kinds = layer_kinds(fields, fields.num_layers(), usual)
    mixers = windowed(fields, attention(fields, norm="head"), kinds)
    return decoder(fields, layers_of(fields, mixers, [mlp(fields)] * len(kinds), num_norms=2))


def _exaone_period(fields: Fields) -> int:
    pattern = fields.raw("sliding_window_pattern", 4)
    return len(pattern) if isinstance(pattern, str) and pattern else fields.size("sliding_window_pattern", default=4)


def ernie(fields: Fields) -> ModelSpec:
    """ERNIE 4.5, dense: one key for the biases of all projections; tied by default."""
    bias = fields.flag("use_bias", default=False)
    mixer = attention(fields, qkv_bias=bias, out_bias=bias)
    return decoder(fields, alike(fields, mixer, mlp(fields, bias=bias)), tied=True)


def seed_oss(fields: Fields) -> ModelSpec:
    """Seed-OSS: keys of their own for the biases of projections into and out of the attention."""
    qkv_bias = fields.flag("attention_bias", default=True)
    out_bias = fields.flag("attention_out_bias", default=False)
    mixer = attention(fields, qkv_bias=qkv_bias, out_bias=out_bias)
    return decoder(fields, alike(fields, mixer, mlp(fields, bias=fields.flag("mlp_bias", default=False))))


def arcee(fields: Fields) -> ModelSpec:
    """AFM: Llama with a plain MLP."""
    bias = fields.flag("attention_bias", default=False)
    part = mlp(fields, bias=fields.flag("mlp_bias", default=False), is_gated=False)
    return decoder(fields, alike(fields, attention(fields, qkv_bias=bias, out_bias=bias), part))


def apertus(fields: Fields) -> ModelSpec:
    """Apertus: a plain MLP whose activation has two learned numbers, and norms of queries and keys."""
    bias = fields.flag("attention_bias", default=False)
    mixer = attention(fields, norm="head", qkv_bias=bias, out_bias=bias)
    plain = mlp(fields, bias=fields.flag("mlp_bias", default=False), is_gated=False)
    return decoder(fields, alike(fields, mixer, replace(plain, extra_numbers=2)))


def nemotron(fields: Fields) -> ModelSpec:
    """Nemotron-4 and Minitron: a plain MLP, and layer norms with biases."""
    bias = fields.flag("attention_bias", default=False)
    mixer = attention(fields, qkv_bias=bias, out_bias=bias)
    part = mlp(fields, bias=fields.flag("mlp_bias", default=False), is_gated=False)
    return decoder(fields, alike(fields, mixer, part, norm_bias=True), norm_bias=True)


def cohere(fields: Fields) -> ModelSpec:
    """Command R: attention and MLP read one norm; queries and keys may have norms, one for each head."""
    bias = fields.flag("attention_bias", default=False)
    norm: QueryKeyNorm | None = "heads" if fields.flag("use_qk_norm", default=False) else None
    mixer = attention(fields, qkv_bias=bias, out_bias=bias, norm=norm)
    return decoder(fields, alike(fields, mixer, mlp(fields), num_norms=1), tied=True)


def cohere2(fields: Fields) -> ModelSpec:
    """Command A and R7B: the same, with windows in three of four layers."""
    period = fields.size("sliding_window_pattern", "_sliding_window_pattern", default=4)
    kinds = layer_kinds(fields, fields.num_layers(), full_every(period))
    bias = fields.flag("attention_bias", default=False)
    mixers = windowed(fields, attention(fields, qkv_bias=bias, out_bias=bias), kinds)
    return decoder(fields, layers_of(fields, mixers, [mlp(fields)] * len(kinds), num_norms=1), tied=True)


def stablelm(fields: Fields) -> ModelSpec:
    """StableLM 2: layer norms with biases; attention and MLP may read one norm, queries and keys may have norms."""
    norm: QueryKeyNorm | None = "heads" if fields.flag("qk_layernorm", default=False) else None
    mixer = attention(fields, qkv_bias=fields.flag("use_qkv_bias", default=False), norm=norm)
    num_norms = 1 if fields.flag("use_parallel_residual", default=False) else 2
    return decoder(fields, alike(fields, mixer, mlp(fields), num_norms=num_norms, norm_bias=True), norm_bias=True)
