"""A tiny random model of each family, made from its configuration's class; a new family needs nothing here."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kvsim.engine.model.family_table import FAMILIES

WINDOW_TOKENS = 24
LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"]
LAYER_TYPES += ["sliding_attention"]

_SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_WINDOWS: dict[str, Any] = {
    "num_hidden_layers": len(LAYER_TYPES),
    "layer_types": LAYER_TYPES,
    "sliding_window": WINDOW_TOKENS,
}
_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "head_dim": None,
    "kv_lora_rank": 12,
    "q_lora_rank": None,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
}
_STATES: dict[str, Any] = {"num_hidden_layers": 6}
_LINEAR = ["linear_attention", "linear_attention", "full_attention", "linear_attention"]
_LINEAR += ["full_attention", "full_attention"]
_DELTA: dict[str, Any] = _STATES | {
    "layer_types": _LINEAR,
    "linear_conv_kernel_dim": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 12,
}
_SHARED: dict[str, Any] = _EXPERTS | {"moe_intermediate_size": 24, "shared_expert_intermediate_size": 40}
_MAMBA2: dict[str, Any] = _STATES | {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 12,
    "mamba_d_conv": 4,
    "mamba_chunk_size": 16,
}
_FURTHER: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 128},  # of every layer, and longer than the tests' contexts
    "mixtral": _EXPERTS | {"sliding_window": None},
    "qwen3_moe": _EXPERTS | {"moe_intermediate_size": 32},
    "gemma2": _WINDOWS | {"query_pre_attn_scalar": 24, "attn_logit_softcapping": 4.0},
    "gemma3_text": _WINDOWS | {"query_pre_attn_scalar": 24},
    "phi3": {"sliding_window": None},
    "granite": {"attention_multiplier": 0.2, "embedding_multiplier": 2.0, "residual_multiplier": 0.5},
    "smollm3": {"no_rope_layer_interval": 2},
    "gpt_oss": _WINDOWS | _EXPERTS | {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    "cohere2": _WINDOWS,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT | {"q_lora_rank": 24},
    "qwen3_next": _DELTA | _SHARED,
    "qwen3_5_text": _DELTA,
    "qwen3_5_moe_text": _DELTA | _SHARED,
    "lfm2": _STATES
    | {"layer_types": ["conv" if kind == "linear_attention" else kind for kind in _LINEAR]}
    | {"conv_L_cache": 3, "block_multiple_of": 16},
    "granitemoehybrid": _MAMBA2 | _EXPERTS | {"layer_types": _LINEAR, "shared_intermediate_size": 40},
    "gpt_neox": {"head_dim": None, "num_key_value_heads": None},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512},
}


def tiny_model_of(model_type: str, **others: Any) -> Any:
    """Return a model of some layers with seeded weights; norms, biases and sinks are not what they begin as.

    `others` are fields of its configuration that are other than usual here.
    """
    sizes = {} if model_type == "gpt2" else _SIZES
    config = AutoConfig.for_model(model_type, **{"vocab_size": 256, **sizes, **_FURTHER.get(model_type, {}), **others})
    with torch.random.fork_rng():
        torch.manual_seed(5)
        attention = "sdpa" if FAMILIES[model_type].uses_sdpa else "eager"
        model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
        for name, weight in model.named_parameters():
            if "norm" in name or "ln_" in name:
                torch.nn.init.uniform_(weight, 0.5, 1.5)
            elif "bias" in name or "sinks" in name:
                torch.nn.init.uniform_(weight, -1.0, 1.0)
    return model.eval()
