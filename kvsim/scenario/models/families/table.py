"""Every `model_type` that kvsim reads: the function that does it, its own names of keys, and sizes that files omit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from kvsim.scenario.models.families import gemma, gpt, hybrid, latent, llama, moe, state_space
from kvsim.scenario.models.fields import Fields
from kvsim.scenario.models.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How a family's configuration is read."""

    build: Callable[[Fields], ModelSpec]
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The family's own names by the usual ones."""
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What the family's own code takes for keys that published files leave out (transformers 5.24)."""


_GPT2 = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
}
_BLOOM = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "hidden_size": "n_embed"}
_GEMMA3 = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
    "max_position_embeddings": 131_072,
}
_GEMMA3N = {"vocab_size_per_layer_input": 262_144, "vocab_size": 262_400}


def _family(build: Callable[[Fields], ModelSpec], names: Mapping[str, str] | None = None, **defaults: Any) -> Family:
    return Family(build=build, names=names or {}, defaults=defaults)


FAMILIES: dict[str, Family] = {
    "apertus": _family(llama.apertus),
    "arcee": _family(llama.arcee),
    "bamba": _family(hybrid.bamba),
    "bloom": _family(gpt.bloom, _BLOOM),
    "cohere": _family(llama.cohere),
    "cohere2": _family(llama.cohere2),
    "deepseek_v2": _family(latent.deepseek_v2, q_lora_rank=1536),
    "deepseek_v3": _family(latent.deepseek_v3, q_lora_rank=1536, first_k_dense_replace=3),
    "deepseek_v32": _family(latent.indexed, first_k_dense_replace=3),
    "ernie4_5": _family(llama.ernie, head_dim=128),
    "ernie4_5_moe": _family(moe.ernie_moe),
    "exaone4": _family(llama.exaone4),
    "falcon": _family(gpt.falcon, max_position_embeddings=2048),
    "falcon_h1": _family(hybrid.falcon_h1),
    "falcon_mamba": _family(state_space.mamba_model),
    "gemma": _family(gemma.gemma, head_dim=256),
    "gemma2": _family(gemma.gemma2, head_dim=256, sliding_window=4096),
    "gemma3_text": Family(build=gemma.gemma3, defaults=_GEMMA3),
    "gemma3n_text": Family(build=gemma.gemma3n, defaults=_GEMMA3N),
    "gemma4_text": _family(gemma.gemma4),
    "glm": _family(llama.glm, head_dim=128),
    "glm4": _family(llama.glm4, head_dim=128),
    "glm4_moe": _family(moe.glm4_moe, first_k_dense_replace=1),
    "glm_moe_dsa": _family(latent.indexed, first_k_dense_replace=3),
    "gpt2": _family(gpt.gpt2, _GPT2),
    "gpt_bigcode": _family(gpt.gpt2, _GPT2, multi_query=True),
    "gpt_neox": _family(gpt.gpt_neox),
    "gpt_oss": _family(moe.gpt_oss, head_dim=64),
    "gptj": _family(gpt.gptj, _GPT2),
    "granite": _family(llama.llama),
    "granitemoe": _family(moe.mixtral),
    "granitemoehybrid": _family(hybrid.granite_hybrid),
    "granitemoeshared": _family(moe.mixtral),
    "jamba": _family(hybrid.jamba),
    "kimi_k2": _family(latent.deepseek_v3, q_lora_rank=1536, first_k_dense_replace=3),
    "lfm2": _family(hybrid.lfm2),
    "llama": _family(llama.llama),
    "llama4_text": _family(moe.llama4),
    "mamba": _family(state_space.mamba_model),
    "mamba2": _family(state_space.mamba2_model),
    "minimax": _family(hybrid.minimax),
    "minimax_m2": _family(moe.minimax_m2),
    "ministral": _family(llama.ministral, sliding_window=4096),
    "ministral3": _family(llama.mistral, head_dim=128),
    "mistral": _family(llama.mistral, sliding_window=4096),
    "mixtral": _family(moe.mixtral),
    "nemotron": _family(llama.nemotron),
    "nemotron_h": _family(state_space.nemotron_h, {"head_dim": "attention_head_dim"}),
    "olmo": _family(llama.olmo),
    "olmo2": _family(llama.olmo2),
    "olmo3": _family(llama.olmo2, sliding_window=4096),
    "olmoe": _family(moe.olmoe),
    "opt": _family(gpt.opt),
    "phi": _family(gpt.phi),
    "phi3": _family(llama.mistral),
    "phimoe": _family(moe.phimoe),
    "qwen2": _family(llama.qwen2),
    "qwen2_moe": _family(moe.qwen2_moe),
    "qwen3": _family(llama.qwen3, head_dim=128),
    "qwen3_5_moe_text": _family(hybrid.qwen3_next, head_dim=256),
    "qwen3_5_text": _family(hybrid.qwen3_5, head_dim=256),
    "qwen3_moe": _family(moe.qwen3_moe),
    "qwen3_next": _family(hybrid.qwen3_next, head_dim=256),
    "seed_oss": _family(llama.seed_oss, head_dim=128),
    "smollm3": _family(llama.smollm3),
    "stablelm": _family(llama.stablelm),
    "starcoder2": _family(gpt.starcoder2),
}
"""By `model_type` of the text part."""

WRAPPERS: dict[str, str] = {
    "exaone4_5": "exaone4",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "kimi_k25": "kimi_k2",
    "llama4": "llama4_text",
    "mistral3": "mistral",
    "qwen2_5_vl": "qwen2",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
}
"""Models that see or hear, with the `model_type` of their text part where that has none of its own in `FAMILIES`."""
