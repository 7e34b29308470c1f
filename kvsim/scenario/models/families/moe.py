"""Models whose MLPs are mixtures of experts, with attention that has keys and values of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvsim.scenario.models.blocks import Experts, Mlp
from kvsim.scenario.models.families.common import (
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
from kvsim.scenario.models.families.llama import qwen_kinds
from kvsim.scenario.models.fields import Fields
from kvsim.scenario.models.spec import ModelSpec


def experts(fields: Fields, *, width_key: str = "intermediate_size") -> Experts:
    """Return a mixture of gated experts from the usual keys."""
    return Experts(
        num_experts=fields.size("num_local_experts", "num_experts", "n_routed_experts"),
        num_active=fields.size("num_experts_per_tok"),
        expert=mlp(fields, key=width_key),
    )


def mixtral(fields: Fields) -> ModelSpec:
    """Mixtral, and GraniteMoE: Mistral with experts in every layer."""
    mixers = windowed(fields, biased_attention(fields), same_window(fields))
    part = experts(fields)
    width = fields.size("shared_intermediate_size", default=0, least=0)
    if width:  # GraniteMoE with an MLP that every token passes
        part = replace(part, shared=Mlp(intermediate_size=width))
    return decoder(fields, layers_of(fields, mixers, part))


def phimoe(fields: Fields) -> ModelSpec:
    """Phi-3.5-MoE: layer norms with biases, and biases of attention and head."""
    mixers = windowed(fields, biased_attention(fields), same_window(fields))
    layers = layers_of(fields, mixers, experts(fields), norm_bias=True)
    return decoder(fields, layers, norm_bias=True, has_head_bias=fields.flag("lm_head_bias", default=False))


def olmoe(fields: Fields) -> ModelSpec:
    """OLMoE: norms over all queries and all keys."""
    return decoder(fields, layers_of(fields, biased_attention(fields, norm="projection"), experts(fields)))


def sparse_or_dense(fields: Fields, sparse: Experts) -> list[Experts | Mlp]:
    """Return Qwen's choice: experts every `decoder_sparse_step` layers but in `mlp_only_layers`, else a dense MLP."""
    step = fields.size("decoder_sparse_step", default=1)
    only_dense = set(fields.indices("mlp_only_layers"))
    is_sparse = [index not in only_dense and (index + 1) % step == 0 for index in range(fields.num_layers())]
    if not all(is_sparse):
        dense = mlp(fields)
        return [sparse if choice else dense for choice in is_sparse]
    fields.ignore("intermediate_size")  # of a dense MLP
    return [sparse] * len(is_sparse)


def shared_expert(fields: Fields, sparse: Experts) -> Experts:
    """Return the mixture with Qwen's shared expert and its gate."""
    width = fields.size("shared_expert_intermediate_size")
    return replace(sparse, shared=Mlp(intermediate_size=width), has_shared_gate=True)


def qwen2_moe(fields: Fields) -> ModelSpec:
    """Qwen1.5-MoE and Qwen2-57B-A14B: a shared expert with a gate."""
    mixers = windowed(fields, attention(fields, qkv_bias=fields.flag("qkv_bias", default=True)), qwen_kinds(fields))
    sparse = shared_expert(fields, experts(fields, width_key="moe_intermediate_size"))
    return decoder(fields, layers_of(fields, mixers, sparse_or_dense(fields, sparse)))


def qwen3_moe(fields: Fields) -> ModelSpec:
    """Qwen3 MoE: norms of queries and keys, no shared expert."""
    fields.refuse("use_qk_norm", "attention without norms of queries and keys", unless=(None, True))
    mixers = windowed(fields, biased_attention(fields, norm="head"), qwen_kinds(fields))
    sparse = experts(fields, width_key="moe_intermediate_size")
    return decoder(fields, layers_of(fields, mixers, sparse_or_dense(fields, sparse)))


def gpt_oss(fields: Fields) -> ModelSpec:
    """gpt-oss: a window in every other layer, sinks, biases of attention, router and experts."""
    mixer = biased_attention(fields, default=True)
    mixers = windowed(fields, replace(mixer, num_sinks=mixer.num_heads), layer_kinds(fields, full_every(2)))
    part = experts(fields)
    biased = replace(part.expert, up_bias=True, down_bias=True)
    part = replace(part, expert=biased, router_bias_numbers=part.num_experts)
    return decoder(fields, layers_of(fields, mixers, part))


def minimax_m2(fields: Fields) -> ModelSpec:
    """MiniMax-M2: norms over all queries and all keys, a correction of the router."""
    fields.refuse("qk_norm_type", "norms of queries and keys of another type", unless=(None, "per_layer"))
    fields.ignore("use_mtp", "mtp_transformer_layers")
    mixer = attention(fields, norm="projection" if fields.flag("use_qk_norm", default=True) else None)
    part = experts(fields)
    is_corrected = fields.flag("use_routing_bias", default=True)
    part = replace(part, router_bias_numbers=part.num_experts * is_corrected)
    return decoder(fields, layers_of(fields, mixer, part))


def dense_first(fields: Fields, sparse: Experts, dense: Mlp) -> Sequence[Experts | Mlp]:
    """Return DeepSeek's choice: `first_k_dense_replace` dense MLPs, then experts, unless `mlp_layer_types` says."""
    words = {"dense": "dense", "sparse": "sparse"}
    listed = fields.words("mlp_layer_types", words)
    num_dense = fields.size("first_k_dense_replace", default=0, least=0)
    if listed is None:
        listed = ["dense" if index < num_dense else "sparse" for index in range(fields.num_layers())]
    fields.refuse("moe_layer_freq", "experts in some layers only", unless=(None, 1))
    return [dense if word == "dense" else sparse for word in listed]


def corrected_experts(fields: Fields, *, shared_bias: bool = False) -> Experts:
    """Return DeepSeek's mixture: shared experts as one MLP, and a correction of the router."""
    sparse = experts(fields, width_key="moe_intermediate_size")
    num_shared = fields.size("n_shared_experts", least=0)
    width = num_shared * sparse.expert.intermediate_size
    shared = Mlp(intermediate_size=width, up_bias=shared_bias, down_bias=shared_bias) if num_shared else None
    return replace(sparse, shared=shared, router_bias_numbers=sparse.num_experts)


def glm4_moe(fields: Fields) -> ModelSpec:
    """GLM-4.5 and 4.6: the first layers dense, a shared expert, maybe norms of queries and keys."""
    norm: QueryKeyNorm | None = "head" if fields.flag("use_qk_norm", default=False) else None
    mixer = attention(fields, qkv_bias=fields.flag("attention_bias", default=False), norm=norm)
    parts = dense_first(fields, corrected_experts(fields), mlp(fields))
    return decoder(fields, layers_of(fields, mixer, parts))


def ernie_moe(fields: Fields) -> ModelSpec:
    """ERNIE 4.5 with experts in a range of layers; biases are everywhere but in experts."""
    bias = fields.flag("use_bias", default=False)
    num_layers = fields.num_layers()
    sparse = Experts(
        num_experts=fields.size("moe_num_experts"),
        num_active=fields.size("moe_k"),
        expert=mlp(fields, key="moe_intermediate_size"),
        router_bias_numbers=fields.size("moe_num_experts"),
    )
    num_shared = fields.size("moe_num_shared_experts", default=0, least=0)
    if num_shared:
        width = num_shared * sparse.expert.intermediate_size
        sparse = replace(sparse, shared=Mlp(intermediate_size=width, up_bias=bias, down_bias=bias))
    first, period = fields.size("moe_layer_start_index", least=0), fields.size("moe_layer_interval", default=1)
    last = fields.size("moe_layer_end_index", default=-1, least=-1)
    last = num_layers - 1 if last == -1 else last
    dense = mlp(fields, bias=bias)
    parts = [sparse if (index + 1) % period == 0 and first <= index <= last else dense for index in range(num_layers)]
    layers = layers_of(fields, attention(fields, qkv_bias=bias, out_bias=bias), parts)
    return decoder(fields, layers, tied=True, has_head_bias=bias)


def llama4(fields: Fields) -> ModelSpec:
    """Llama 4: chunks of attention in three of four layers, experts in all layers or every other one."""
    fields.ignore("use_qk_norm", "intermediate_size_mlp")  # norms without weights; of a dense MLP
    full = biased_attention(fields)
    num_layers = fields.num_layers()
    chunk = fields.optional_size("attention_chunk_size")
    chunked = replace(full, chunk_tokens=chunk)
    sparse = replace(experts(fields), shared=mlp(fields))
    step = fields.size("interleave_moe_layer_step", default=1)
    listed = fields.indices("moe_layers") or list(range(step - 1, num_layers, step))
    dense = mlp(fields, key="intermediate_size_mlp") if len(listed) < num_layers else None
    parts = [sparse if index in listed or dense is None else dense for index in range(num_layers)]
    mixers = [chunked if kind == "chunked" else full for kind in _chunked_kinds(fields, num_layers)]
    return decoder(fields, layers_of(fields, mixers, parts))


def _chunked_kinds(fields: Fields, num_layers: int) -> list[str]:
    """Return the layers that attend to chunks: those with rotary positions."""
    words = {"chunked_attention": "chunked", "full_attention": "full"}
    listed = fields.words("layer_types", words)
    period = fields.size("no_rope_layer_interval", default=4)
    rotary = fields.indices("no_rope_layers") or [int((index + 1) % period != 0) for index in range(num_layers)]
    if listed is not None:
        return listed
    return ["chunked" if has_rope else "full" for has_rope in (rotary + [1] * num_layers)[:num_layers]]
