"""Models with multi-head latent attention: DeepSeek, Kimi and the GLMs that attend sparsely."""

from __future__ import annotations

from dataclasses import replace

from kvsim.scenario.models.attention import Indexer, Latent
from kvsim.scenario.models.families.common import decoder, layers_of, mlp
from kvsim.scenario.models.families.moe import corrected_experts, dense_first
from kvsim.scenario.models.fields import Fields
from kvsim.scenario.models.spec import ModelSpec


def latent(fields: Fields) -> Latent:
    """Return latent attention from the usual keys."""
    fields.ignore("num_key_value_heads", "head_dim")  # there is one latent for all heads
    return Latent(
        num_heads=fields.size("num_attention_heads"),
        query_rank=fields.optional_size("q_lora_rank"),
        kv_rank=fields.size("kv_lora_rank"),
        rope_dim=fields.size("qk_rope_head_dim"),
        nope_dim=fields.size("qk_nope_head_dim"),
        value_dim=fields.size("v_head_dim"),
        has_bias=fields.flag("attention_bias", default=False),
    )


def deepseek_v2(fields: Fields) -> ModelSpec:
    """DeepSeek-V2: the router has no correction."""
    bias = fields.flag("mlp_bias", default=False)
    sparse = replace(corrected_experts(fields, shared_bias=bias), router_bias_numbers=0)
    parts = dense_first(fields, sparse, mlp(fields, bias=bias))
    return decoder(fields, layers_of(fields, latent(fields), parts))


def deepseek_v3(fields: Fields) -> ModelSpec:
    """DeepSeek-V3, R1, and Kimi K2; layers that predict further tokens are not counted."""
    parts = dense_first(fields, corrected_experts(fields), mlp(fields))
    return decoder(fields, layers_of(fields, latent(fields), parts))


def indexed(fields: Fields) -> ModelSpec:
    """DeepSeek-V3.2 and GLM-5: an indexer chooses the tokens that are read; some layers take an earlier choice."""
    chosen = fields.size("index_topk")
    indexer = Indexer(num_heads=fields.size("index_n_heads"), head_dim=fields.size("index_head_dim"))
    reads = replace(latent(fields), num_chosen_tokens=chosen)
    chooses = replace(reads, indexer=indexer)
    mixers = [chooses if kind == "full" else reads for kind in _choices(fields)]
    parts = dense_first(fields, corrected_experts(fields), mlp(fields))
    return decoder(fields, layers_of(fields, mixers, parts))


def _choices(fields: Fields) -> list[str]:
    """Return ``full`` for layers that choose tokens and ``shared`` for those that take the choice before."""
    num_layers = fields.num_layers()
    fields.refuse("index_topk_pattern", "a pattern of shared choices", unless=(None,))
    fields.ignore("index_topk_freq", "index_skip_topk_offset")
    listed = fields.words("indexer_types", {"full": "full", "shared": "shared"})
    if listed is not None:
        return listed
    period = fields.size("index_topk_freq", default=1)
    offset = fields.size("index_skip_topk_offset", default=2, least=0)
    return ["shared" if max(index - offset + 1, 0) % period else "full" for index in range(num_layers)]
