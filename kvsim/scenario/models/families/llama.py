"""Dense models with rotary positions and RMS norms: Llama and its many relatives."""

from __future__ import annotations

from dataclasses import replace

from kvsim.scenario.models.families.common import (
    ATTENTION_KINDS,
    QueryKeyNorm,
    attention,
    biased_attention,
    decoder,
    full_every,
    layer_kinds,
    layers_of,
    mlp,
    same_window,
    windowed,
)
from kvsim.scenario.models.fields import Fields
from kvsim.scenario.models.spec import ModelSpec


def llama(fields: Fields) -> ModelSpec:
    """Llama 1 to 3, and what calls itself so: Yi, SmolLM2, Granite 2, ...; also Granite 3 (``granite``)."""
    mixer = biased_attention(fields)
    return decoder(fields, layers_of(fields, mixer, mlp(fields, bias=fields.flag("mlp_bias", default=False))))


def smollm3(fields: Fields) -> ModelSpec:
    """SmolLM3: Llama in which some layers do without rotary positions; tied by default."""
    fields.refuse("use_sliding_window", "a sliding window that only some layers have")
    mixers = windowed(fields, biased_attention(fields), layer_kinds(fields, full_every(1)))
    part = mlp(fields, bias=fields.flag("mlp_bias", default=False))
    return decoder(fields, layers_of(fields, mixers, part), tied=True)


def mistral(fields: Fields) -> ModelSpec:
    """Mistral, Ministral 3, Phi-3 and Phi-4: a window in every layer where `sliding_window` is set."""
    mixers = windowed(fields, attention(fields), same_window(fields))
    return decoder(fields, layers_of(fields, mixers, mlp(fields)))


def ministral(fields: Fields) -> ModelSpec:
    """Ministral: layers named in `layer_types`, or all with a window."""
    kinds = fields.words("layer_types", ATTENTION_KINDS)
    mixers = windowed(fields, attention(fields), same_window(fields) if kinds is None else kinds)
    return decoder(fields, layers_of(fields, mixers, mlp(fields)))


def qwen2(fields: Fields) -> ModelSpec:
    """Qwen2 and Qwen2.5: biases on queries, keys and values."""
    mixers = windowed(fields, attention(fields, qkv_bias=True), qwen_kinds(fields))
    return decoder(fields, layers_of(fields, mixers, mlp(fields)))


def qwen3(fields: Fields) -> ModelSpec:
    """Qwen3: norms of queries and keys, heads of 128."""
    mixer = biased_attention(fields, norm="head")
    return decoder(fields, layers_of(fields, windowed(fields, mixer, qwen_kinds(fields)), mlp(fields)))


def qwen_kinds(fields: Fields) -> list[str]:
    """Return the kinds of Qwen's layers: windows only if `use_sliding_window`, from layer `max_window_layers` on."""
    num_layers = fields.num_layers()
    first = fields.size("max_window_layers", default=num_layers, least=0)
    in_use = fields.flag("use_sliding_window", default=False) and "sliding_window" in fields
    fields.ignore("sliding_window")  # it is there even where it is not in use
    return layer_kinds(fields, lambda index: "sliding" if in_use and index >= first else "full")


def olmo(fields: Fields) -> ModelSpec:
    """OLMo 1: norms without weights."""
    return decoder(fields, layers_of(fields, biased_attention(fields), mlp(fields), num_norms=0), has_final_norm=False)


def olmo2(fields: Fields) -> ModelSpec:
    """OLMo 2 and 3: norms behind attention and MLP, and over all queries and all keys; OLMo 3 with windows."""
    mixer = biased_attention(fields, norm="projection")
    usual = full_every(4) if "sliding_window" in fields else full_every(1)
    return decoder(fields, layers_of(fields, windowed(fields, mixer, layer_kinds(fields, usual)), mlp(fields)))


def glm(fields: Fields) -> ModelSpec:
    """GLM-4 9B (``glm``): biases on queries, keys and values, heads of 128."""
    mixer = attention(fields, qkv_bias=fields.flag("attention_bias", default=True))
    return decoder(fields, layers_of(fields, mixer, mlp(fields)))


def glm4(fields: Fields) -> ModelSpec:
    """GLM-4-0414 (``glm4``): the same with norms behind attention and MLP besides."""
    mixer = attention(fields, qkv_bias=fields.flag("attention_bias", default=True))
    return decoder(fields, layers_of(fields, mixer, mlp(fields), num_norms=4))


def exaone4(fields: Fields) -> ModelSpec:
    """EXAONE 4: norms behind attention and MLP, and of queries and keys; windows in three of four layers or none."""
    usual = full_every(_exaone_period(fields)) if "sliding_window" in fields else full_every(1)
    mixers = windowed(fields, attention(fields, norm="head"), layer_kinds(fields, usual))
    return decoder(fields, layers_of(fields, mixers, mlp(fields)))


def _exaone_period(fields: Fields) -> int:
    pattern = fields.raw("sliding_window_pattern", 4)
    return len(pattern) if isinstance(pattern, str) and pattern else fields.size("sliding_window_pattern", default=4)


def ernie(fields: Fields) -> ModelSpec:
    """ERNIE 4.5, dense: one key for the biases of all projections; tied by default."""
    mixer = biased_attention(fields, "use_bias")
    return decoder(fields, layers_of(fields, mixer, mlp(fields, bias=mixer.qkv_bias)), tied=True)


def seed_oss(fields: Fields) -> ModelSpec:
    """Seed-OSS: keys of their own for the biases of projections into and out of the attention."""
    qkv_bias = fields.flag("attention_bias", default=True)
    out_bias = fields.flag("attention_out_bias", default=False)
    mixer = attention(fields, qkv_bias=qkv_bias, out_bias=out_bias)
    return decoder(fields, layers_of(fields, mixer, mlp(fields, bias=fields.flag("mlp_bias", default=False))))


def arcee(fields: Fields) -> ModelSpec:
    """AFM: Llama with a plain MLP."""
    part = mlp(fields, bias=fields.flag("mlp_bias", default=False), is_gated=False)
    return decoder(fields, layers_of(fields, biased_attention(fields), part))


def apertus(fields: Fields) -> ModelSpec:
    """Apertus: a plain MLP whose activation has two learned numbers, and norms of queries and keys."""
    plain = mlp(fields, bias=fields.flag("mlp_bias", default=False), is_gated=False)
    return decoder(fields, layers_of(fields, biased_attention(fields, norm="head"), replace(plain, extra_numbers=2)))


def nemotron(fields: Fields) -> ModelSpec:
    """Nemotron-4 and Minitron: a plain MLP, and layer norms with biases."""
    part = mlp(fields, bias=fields.flag("mlp_bias", default=False), is_gated=False)
    return decoder(fields, layers_of(fields, biased_attention(fields), part, norm_bias=True), norm_bias=True)


def cohere(fields: Fields) -> ModelSpec:
    """Command R: attention and MLP read one norm; queries and keys may have norms, one for each head."""
    norm: QueryKeyNorm | None = "heads" if fields.flag("use_qk_norm", default=False) else None
    return decoder(fields, layers_of(fields, biased_attention(fields, norm=norm), mlp(fields), num_norms=1), tied=True)


def cohere2(fields: Fields) -> ModelSpec:
    """Command A and R7B: the same, with windows in three of four layers."""
    period = fields.size("sliding_window_pattern", "_sliding_window_pattern", default=4)
    mixers = windowed(fields, biased_attention(fields), layer_kinds(fields, full_every(period)))
    return decoder(fields, layers_of(fields, mixers, mlp(fields), num_norms=1), tied=True)


def stablelm(fields: Fields) -> ModelSpec:
    """StableLM 2: layer norms with biases; attention and MLP may read one norm, queries and keys may have norms."""
    norm: QueryKeyNorm | None = "heads" if fields.flag("qk_layernorm", default=False) else None
    mixer = attention(fields, qkv_bias=fields.flag("use_qkv_bias", default=False), norm=norm)
    num_norms = 1 if fields.flag("use_parallel_residual", default=False) else 2
    return decoder(fields, layers_of(fields, mixer, mlp(fields), num_norms=num_norms, norm_bias=True), norm_bias=True)
