"""Nemotron-H, whose layers are single blocks, and models of state spaces only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from kvsim.scenario.models.blocks import Experts, Layer, State
from kvsim.scenario.models.families.common import attention, decoder, mlp
from kvsim.scenario.models.families.hybrid import state_dtype
from kvsim.scenario.models.families.moe import corrected_experts
from kvsim.scenario.models.fields import Fields
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.states import mamba, mamba2

_BLOCKS = {"M": "state", "*": "full", "-": "mlp", "E": "moe"}
_BLOCK_WORDS = {"mamba": "state", "linear_attention": "state", "attention": "full", "full_attention": "full"}
_BLOCK_WORDS |= {"mlp": "mlp", "moe": "moe"}


def nemotron_h(fields: Fields) -> ModelSpec:
    """Nemotron-H and Nemotron 3: every layer is one block: Mamba-2, attention, an MLP or experts."""
    fields.refuse("sliding_window", "a sliding window in a hybrid model", unless=(None,))
    fields.ignore("expand", "intermediate_size", "mamba_proj_bias", "moe_shared_expert_overlap", "num_hidden_layers")
    fields.ignore("mtp_hybrid_override_pattern", "mtp_layers_block_type", "norm_eps")
    bias = fields.flag("mlp_bias", default=False)
    kinds = _nemotron_kinds(fields)
    layer = Layer(norm_numbers=fields.size("hidden_size"))
    blocks: dict[str, Callable[[], Layer]] = {
        "full": lambda: replace(layer, mixers=(attention(fields),)),
        "state": lambda: replace(
            layer, mixers=(_mamba2(fields, heads="mamba_num_heads", width="mamba_head_dim", state="ssm_state_size"),)
        ),
        "mlp": lambda: replace(layer, mlps=(mlp(fields, bias=bias, is_gated=False),)),
        "moe": lambda: replace(layer, mlps=(_nemotron_experts(fields, bias=bias),)),
    }
    layers = {kind: blocks[kind]() for kind in dict.fromkeys(kinds)}  # only those that are there read their keys
    spec = decoder(fields, tuple(layers[kind] for kind in kinds), state_dtype=state_dtype(fields))
    return replace(spec, tied_embeddings=False)  # its code has a head of its own, whatever tie_word_embeddings says


def _nemotron_kinds(fields: Fields) -> list[str]:
    pattern = fields.raw("hybrid_override_pattern")
    if isinstance(pattern, str):
        return [fields.translated("hybrid_override_pattern", letter, _BLOCKS) for letter in pattern]
    words = fields.raw("layers_block_type") or fields.raw("layer_types")
    if not isinstance(words, list):
        fields.size("hybrid_override_pattern")  # gathers it as missing
        return []
    return [fields.translated("layers_block_type", word, _BLOCK_WORDS) for word in words]


def _mamba2(fields: Fields, *, heads: str, width: str, state: str) -> State:
    has_bias = fields.flag("use_bias", default=False)
    return mamba2(
        hidden_size=fields.size("hidden_size"),
        num_heads=fields.size(heads),
        head_dim=fields.size(width),
        num_groups=fields.size("n_groups"),
        state_size=fields.size(state),
        kernel=fields.size("conv_kernel"),
        conv_bias=fields.flag("use_conv_bias", default=True),
        in_bias=has_bias,
        out_bias=has_bias,
        has_norm=True,
    )


def _nemotron_experts(fields: Fields, *, bias: bool) -> Experts:
    sparse = corrected_experts(fields)
    plain = replace(sparse.expert, is_gated=False)
    width = fields.size("moe_shared_expert_intermediate_size")
    return replace(
        sparse,
        expert=plain,
        shared=replace(plain, intermediate_size=width, up_bias=bias, down_bias=bias),
        expert_input_size=fields.optional_size("moe_latent_size"),
        has_input_bias=bias,
    )


def mamba_model(fields: Fields) -> ModelSpec:
    """Mamba and Falcon-Mamba."""
    hidden = fields.size("hidden_size")
    rank = math.ceil(hidden / 16) if fields.raw("time_step_rank", "auto") == "auto" else fields.size("time_step_rank")
    mixer = mamba(
        hidden_size=hidden,
        inner_size=fields.size("intermediate_size", default=fields.size("expand", default=2) * hidden),
        state_size=fields.size("state_size"),
        step_rank=rank,
        kernel=fields.size("conv_kernel"),
        conv_bias=fields.flag("use_conv_bias", default=True),
        has_bias=fields.flag("use_bias", default=False),
        norm_numbers=0,
    )
    layer = Layer(mixers=(mixer,), norm_numbers=hidden)
    return decoder(fields, (layer,) * fields.num_layers(), tied=True)


def mamba2_model(fields: Fields) -> ModelSpec:
    """Mamba-2 by itself."""
    fields.ignore("expand")  # the heads say it
    mixer = _mamba2(fields, heads="num_heads", width="head_dim", state="state_size")
    layer = Layer(mixers=(mixer,), norm_numbers=fields.size("hidden_size"))
    return decoder(fields, (layer,) * fields.num_layers())
