"""Where families of models differ: what kvsim hooks into, how a query is made, and what of a configuration it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from kvsim.errors import KvsimError
from kvsim.scenario.shapes import DType, ModelShape

TORCH_DTYPES: dict[DType, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes of weights and KV cache by the name that profiles and traces write."""

Rotary: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models of one make. Names are dotted, below the model with its head or below one of its layers."""

    layers: str
    final_norm: str
    attention: str
    query: Callable[[Any, Tensor, Rotary | None], Tensor]
    """Queries of one layer for hidden states ``[n, 1, hidden_size]`` and the positions' rotary embedding, if any."""


def _rotated_query(layer: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    assert rotary is not None
    attention = layer.self_attn
    projected = attention.q_proj(layer.input_layernorm(hidden))
    query = projected.view(*hidden.shape[:2], -1, attention.head_dim).transpose(1, 2)
    rotated: Tensor = apply_rotary_pos_emb(query, query, *rotary)[0]
    return rotated


def _plain_query(layer: Any, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    del rotary  # the position is in the hidden state
    attention = layer.attn
    projected: Tensor = attention.c_attn(layer.ln_1(hidden))[..., : attention.embed_dim]
    return projected.view(*hidden.shape[:2], -1, attention.head_dim).transpose(1, 2)


_LLAMA = Family(layers="model.layers", final_norm="model.norm", attention="self_attn", query=_rotated_query)
_GPT2 = Family(layers="transformer.h", final_norm="transformer.ln_f", attention="attn", query=_plain_query)

FAMILIES: dict[str, Family] = {"llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA, "gpt2": _GPT2}
"""By `model_type`. Llama-like: norm, q/k/v projections, rotary embedding, attention, gated MLP. GPT-2-like: learned
positions, layer norms, one projection for q, k and v, as many KV heads as query heads, plain MLP."""


def decoder_layers(model: Any) -> list[Any]:
    """Return the decoder layers in order."""
    return list(model.get_submodule(_family(model).layers))


def final_norm(model: Any) -> nn.Module:
    """Return the norm behind the last layer."""
    norm: nn.Module = model.get_submodule(_family(model).final_norm)
    return norm


def attention_modules(model: Any) -> list[nn.Module]:
    """Return the attention of each layer: what transformers hands to an attention function."""
    name = _family(model).attention
    return [layer.get_submodule(name) for layer in decoder_layers(model)]


def query_of(model: Any, layer: int, hidden: Tensor, rotary: Rotary | None) -> Tensor:
    """Return the queries that `layer` would make of hidden states, ``[n, num_heads, 1, head_dim]``; see `Family`."""
    return _family(model).query(decoder_layers(model)[layer], hidden, rotary)


def shape_of(model: Any) -> ModelShape:
    """Return the sizes of a model, with the dtype that its weights are held in.

    Raises
    ------
    KvsimError
        If kvsim does not read such models, or the weights are in a dtype that it has no name for.
    """
    config = model.config
    check_config(config, config.name_or_path or "model")
    names: dict[torch.dtype, DType] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    if model.dtype not in names:
        raise KvsimError(f"weights are in {model.dtype}; load the model as one of {', '.join(TORCH_DTYPES)}")
    return shape_of_config(config, names[model.dtype])


def shape_of_config(config: Any, dtype: DType) -> ModelShape:
    """Return the sizes that a configuration gives."""
    is_gpt2 = config.model_type == "gpt2"
    hidden_size = int(config.hidden_size)
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=num_kv_heads_of(config),
        head_dim=head_dim_of(config),
        intermediate_size=(config.n_inner or 4 * hidden_size) if is_gpt2 else config.intermediate_size,
        vocab_size=config.vocab_size,
        tied_embeddings=bool(config.tie_word_embeddings),
        dtype=dtype,
        learned_positions=config.n_positions if is_gpt2 else None,
    )


def context_limit_of(model: Any) -> int | None:
    """Return the most tokens that a model was made to read; None where its configuration does not say."""
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    return limit


def head_dim_of(config: Any) -> int:
    """Return the numbers in one head's key; configurations that leave it out mean the hidden size over the heads."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def num_kv_heads_of(config: Any) -> int:
    """Return the heads that have keys of their own: all, where a configuration does not say."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def check_config(config: Any, name: Path | str) -> None:
    """Refuse other layers than those of `FAMILIES`, and layers that do not attend to the whole context.

    Raises
    ------
    KvsimError
        Saying what kvsim reads.
    """
    if config.model_type not in FAMILIES:
        raise KvsimError(
            f"{name}: model type {config.model_type!r} is neither Llama-like nor GPT-2-like; "
            f"kvsim reads {', '.join(FAMILIES)}"
        )
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (config.model_type == "mistral" and config.sliding_window is not None):
        raise KvsimError(f"{name}: some layers attend to a sliding window; kvsim reads models with full attention only")
    if config.model_type == "gpt2" and (
        config.add_cross_attention or config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights
    ):
        raise KvsimError(f"{name}: a GPT-2 with cross attention or its own scaling; kvsim reads 1/sqrt(head_dim) only")


def _family(model: Any) -> Family:
    return FAMILIES[model.config.model_type]
