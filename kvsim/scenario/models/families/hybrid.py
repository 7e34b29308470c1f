"""Models in which some or all layers hold a state of constant size: Mamba, delta nets, convolutions."""

from __future__ import annotations

import math
from dataclasses import replace

from kvsim.scenario.models.attention import Attention
from kvsim.scenario.models.blocks import Layer, Mlp, State
from kvsim.scenario.models.families.common import attention, biased_attention, decoder, layers_of, mlp
from kvsim.scenario.models.families.moe import experts, shared_expert, sparse_or_dense
from kvsim.scenario.models.fields import Fields
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.states import gated_delta, lightning, mamba, mamba2, short_convolution

_KINDS = {
    "linear_attention": "state",
    "mamba": "state",
    "conv": "state",
    "full_attention": "full",
    "attention": "full",
    "hybrid": "hybrid",
}


def _delta_mixers(fields: Fields) -> list[Attention | State]:
    """Return gated delta nets in three of four layers, else attention with a gate as wide as the queries."""
    period = fields.size("full_attention_interval", default=4)
    kinds = fields.words("layer_types", _KINDS)
    if kinds is None:
        kinds = ["state" if (index + 1) % period else "full" for index in range(fields.num_layers())]
    fields.refuse("attn_output_gate", "attention without a gate on its output", unless=(None, True))
    full = biased_attention(fields, norm="head")
    full = replace(full, gate_numbers=full.num_heads * full.head_dim)
    linear = gated_delta(
        hidden_size=fields.size("hidden_size"),
        num_key_heads=fields.size("linear_num_key_heads"),
        key_dim=fields.size("linear_key_head_dim"),
        num_value_heads=fields.size("linear_num_value_heads"),
        value_dim=fields.size("linear_value_head_dim"),
        kernel=fields.size("linear_conv_kernel_dim"),
    )
    return [full if kind == "full" else linear for kind in kinds]


def qwen3_next(fields: Fields) -> ModelSpec:
    """Qwen3-Next and Qwen3.5 MoE."""
    mixers = _delta_mixers(fields)
    sparse = shared_expert(fields, experts(fields, width_key="moe_intermediate_size"))
    parts = sparse_or_dense(fields, sparse)
    return decoder(fields, layers_of(fields, mixers, parts), state_dtype=state_dtype(fields))


def qwen3_5(fields: Fields) -> ModelSpec:
    """Qwen3.5, dense."""
    mixers = _delta_mixers(fields)
    layers = layers_of(fields, mixers, mlp(fields))
    return decoder(fields, layers, state_dtype=state_dtype(fields))


def state_dtype(fields: Fields) -> str | None:
    """Return the format of recurrent states that a configuration asks for."""
    dtypes = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    return dtypes.get(fields.raw("mamba_ssm_cache_dtype") or fields.raw("mamba_ssm_dtype") or "")


def _mamba2(fields: Fields, *, inner: int, has_norm: bool, in_bias: bool, out_bias: bool) -> State:
    """Return Mamba-2 from the keys that Bamba, Granite 4 and Falcon-H1 share."""
    num_heads = fields.size("mamba_n_heads")
    by_itself = fields.raw("mamba_d_head", "auto") == "auto"
    head_dim = max(inner // num_heads, 1) if by_itself else fields.size("mamba_d_head")
    return mamba2(
        hidden_size=fields.size("hidden_size"),
        num_heads=num_heads,
        head_dim=head_dim,
        num_groups=fields.size("mamba_n_groups"),
        state_size=fields.size("mamba_d_state"),
        kernel=fields.size("mamba_d_conv"),
        conv_bias=fields.flag("mamba_conv_bias", default=True),
        in_bias=in_bias,
        out_bias=out_bias,
        has_norm=has_norm,
    )


def _bamba_mixers(fields: Fields, kinds: list[str]) -> list[Attention | State]:
    full = biased_attention(fields)
    has_bias = fields.flag("mamba_proj_bias", default=False)
    inner = fields.size("mamba_expand", default=2) * fields.size("hidden_size")
    if "state" not in kinds:
        return [full] * len(kinds)
    state = _mamba2(fields, inner=inner, has_norm=True, in_bias=has_bias, out_bias=has_bias)
    return [full if kind == "full" else state for kind in kinds]


def bamba(fields: Fields) -> ModelSpec:
    """Bamba: attention in the layers of `attn_layer_indices`."""
    num_layers = fields.num_layers()
    full = set(fields.indices("attn_layer_indices"))
    mixers = _bamba_mixers(fields, ["full" if index in full else "state" for index in range(num_layers)])
    part = mlp(fields, bias=fields.flag("mlp_bias", default=False))
    return decoder(fields, layers_of(fields, mixers, part))


def granite_hybrid(fields: Fields) -> ModelSpec:
    """Granite 4: layers in `layer_types`, an MLP that every token passes, and experts or none."""
    num_layers = fields.num_layers()
    mixers = _bamba_mixers(fields, fields.words("layer_types", _KINDS) or ["state"] * num_layers)
    shared = Mlp(intermediate_size=fields.size("shared_intermediate_size"))
    if fields.size("num_local_experts", default=0, least=0) == 0:
        fields.ignore("num_experts_per_tok", "intermediate_size")
        return decoder(fields, layers_of(fields, mixers, shared))
    part = replace(experts(fields), shared=shared)
    return decoder(fields, layers_of(fields, mixers, part))


def falcon_h1(fields: Fields) -> ModelSpec:
    """Falcon-H1: attention and Mamba-2 side by side in every layer."""
    fields.refuse("mamba_use_mlp", "layers without an MLP", unless=(None, True))
    hidden = fields.size("hidden_size")
    state = _mamba2(
        fields,
        inner=fields.size("mamba_d_ssm", default=fields.size("mamba_expand", default=2) * hidden),
        has_norm=fields.flag("mamba_rms_norm", default=False),
        in_bias=fields.flag("mamba_proj_bias", default=False),
        out_bias=fields.flag("projectors_bias", default=False),
    )
    layer = Layer(
        mixers=(biased_attention(fields), state),
        mlps=(mlp(fields, bias=fields.flag("mlp_bias", default=False)),),
        norm_numbers=2 * hidden,
    )
    return decoder(fields, (layer,) * fields.num_layers())


def jamba(fields: Fields) -> ModelSpec:
    """Jamba: attention in one layer of eight, Mamba in the others, experts in every other layer."""
    num_layers, hidden = fields.num_layers(), fields.size("hidden_size")
    rank = math.ceil(hidden / 16) if fields.raw("mamba_dt_rank", "auto") == "auto" else fields.size("mamba_dt_rank")
    states = fields.size("mamba_d_state")
    linear = mamba(
        hidden_size=hidden,
        inner_size=fields.size("mamba_expand") * hidden,
        state_size=states,
        step_rank=rank,
        kernel=fields.size("mamba_d_conv"),
        conv_bias=fields.flag("mamba_conv_bias", default=True),
        has_bias=fields.flag("mamba_proj_bias", default=False),
        norm_numbers=rank + 2 * states,
    )
    full, sparse, dense = attention(fields), experts(fields), mlp(fields)
    is_full = _periodic(fields, "attn_layer", num_layers)
    is_sparse = _periodic(fields, "expert_layer", num_layers)
    mixers = [full if choice else linear for choice in is_full]
    parts = [sparse if choice and sparse.num_experts > 1 else dense for choice in is_sparse]
    return decoder(fields, layers_of(fields, mixers, parts))


def _periodic(fields: Fields, prefix: str, num_layers: int) -> list[bool]:
    period, offset = fields.size(f"{prefix}_period"), fields.size(f"{prefix}_offset", least=0)
    return [index % period == offset for index in range(num_layers)]


def lfm2(fields: Fields) -> ModelSpec:
    """LFM2: gated short convolutions, and attention in some layers."""
    num_layers, hidden = fields.num_layers(), fields.size("hidden_size")
    kinds = fields.words("layer_types", _KINDS)
    full_layers = set(fields.indices("full_attn_idxs") if "full_attn_idxs" in fields else range(num_layers))
    if kinds is None:
        kinds = ["full" if index in full_layers else "state" for index in range(num_layers)]
    full = attention(fields, norm="head")
    state = short_convolution(
        hidden_size=hidden, kernel=fields.size("conv_L_cache"), has_bias=fields.flag("conv_bias", default=False)
    )
    width = _lfm2_width(fields)
    mixers = [full if kind == "full" else state for kind in kinds]
    layers = layers_of(fields, mixers, Mlp(intermediate_size=width))
    return decoder(fields, layers, tied=fields.flag("tie_embedding", default=True))


def _lfm2_width(fields: Fields) -> int:
    width = fields.size("block_ff_dim", "intermediate_size")
    multiple = fields.size("block_multiple_of", default=256)
    factor = fields.number("block_ffn_dim_multiplier", default=1.0)
    if not fields.flag("block_auto_adjust_ff_dim", default=True):
        return width
    return multiple * math.ceil(int(factor * int(2 * width / 3)) / multiple)


def minimax(fields: Fields) -> ModelSpec:
    """MiniMax-Text-01: lightning attention in most layers, experts in all."""
    num_layers = fields.num_layers()
    listed = fields.words("layer_types", _KINDS)
    codes = fields.indices("attn_type_list")  # 0: lightning, 1: attention
    if listed is None and len(codes) == num_layers:
        listed = ["full" if code else "state" for code in codes]
    if listed is None:
        listed = ["state" if index % 2 else "full" for index in range(num_layers)]
    full = attention(fields)
    state = lightning(hidden_size=fields.size("hidden_size"), num_heads=full.num_heads, head_dim=full.head_dim)
    mixers = [full if kind == "full" else state for kind in listed]
    return decoder(fields, layers_of(fields, mixers, experts(fields)))
