"""The families of models that the engine reads: what kvsim hooks into, and how each attention makes its weights.

A new family is one entry of `FAMILIES`; the tests of `tests/engine/families` and `docs/families.md` follow from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kvsim.engine.model import latent, queries
from kvsim.engine.model.queries import Rotary
from kvsim.engine.model.weighting import Weighting


def _scaled(attention: Any) -> Weighting:
    return Weighting(scaling=float(attention.scaling))


def _capped(attention: Any) -> Weighting:
    return Weighting(scaling=float(attention.scaling), softcap=attention.attn_logit_softcapping)


def _with_sinks(attention: Any) -> Weighting:
    return Weighting(scaling=float(attention.scaling), sinks=attention.sinks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models of one make. Names are dotted, below the model with its head or below one of its layers."""

    layers: str = "model.layers"
    final_norm: str = "model.norm"
    attention: str = "self_attn"
    input_norm: str | None = "input_layernorm"
    """The norm between what enters a layer and its attention; None where there is none."""
    query: Callable[[Any, Tensor, Rotary | None], Tensor] = queries.plain
    """Of an attention, its input ``[n, 1, hidden_size]`` and the rotary embedding; see `kvsim.engine.model.queries`."""
    weighting: Callable[[Any], Weighting] = _scaled
    """Of an attention."""
    has_latent: bool = False
    """Whether layers hold one latent a token for all heads (`kvsim.engine.model.latent`)."""
    refused: Callable[[Any], str | None] = lambda _: None
    """Returns what a configuration asks for that the engine does not read, in a few words; None where nothing."""
    note: str = ""
    """What is peculiar to the family, for the table in the documentation."""

    @property
    def uses_sdpa(self) -> bool:
        """Whether SDPA computes what the attention does: not with a cap or sinks."""
        return self.weighting is _scaled


def _gpt2_refused(config: Any) -> str | None:
    if config.add_cross_attention or config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        return "a GPT-2 with cross attention or its own scaling; kvsim reads 1/sqrt(head_dim) only"
    return None


def _bidirectional(config: Any) -> str | None:
    if getattr(config, "use_bidirectional_attention", False):
        return "its tokens attend to later ones (use_bidirectional_attention); kvsim reads causal models"
    return None


def _other_rotation(config: Any) -> str | None:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if width != config.qk_rope_head_dim:
        return f"head_dim, the width that is rotated, should be qk_rope_head_dim, {config.qk_rope_head_dim}, is {width}"
    return None


_LATENT = "one latent a token for all heads, which pages hold; experts"

FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(note="every layer has the window, where there is one"),
    "mixtral": Family(note="experts"),
    "qwen2": Family(note="biases of q, k and v; windows from `max_window_layers` on, where there are any"),
    "qwen3": Family(query=queries.head_normalised, note="norms of queries and keys by head"),
    "qwen3_moe": Family(query=queries.head_normalised, note="as qwen3, with experts"),
    "gemma2": Family(
        weighting=_capped, refused=_bidirectional, note="capped logits, scale of its own, every other layer a window"
    ),
    "gemma3_text": Family(
        query=queries.head_normalised,
        refused=_bidirectional,
        note="norms of queries and keys, scale of its own, five layers with a window to one without",
    ),
    "phi3": Family(query=queries.first_of_fused, note="one projection for q, k and v; partial rotation"),
    "olmo2": Family(query=queries.normalised, input_norm=None, note="norms behind attention and MLP, none before"),
    "granite": Family(note="multipliers of embeddings, residuals, attention and logits"),
    "smollm3": Family(query=queries.rotated_where_configured, note="every fourth layer without rotation"),
    "gpt_oss": Family(weighting=_with_sinks, note="attention sinks, every other layer a window, experts"),
    "cohere2": Family(
        query=queries.rotated_in_windows, note="attention and MLP side by side; no rotation where there is no window"
    ),
    "deepseek_v2": Family(query=latent.query_v2, has_latent=True, refused=_other_rotation, note=_LATENT),
    "deepseek_v3": Family(query=latent.query_v3, has_latent=True, refused=_other_rotation, note=_LATENT),
    "qwen3_next": Family(query=queries.gated, note="three delta nets to one attention with a gate; experts"),
    "qwen3_5_text": Family(query=queries.gated, note="three delta nets to one attention with a gate"),
    "qwen3_5_moe_text": Family(query=queries.gated, note="as qwen3_5_text, with experts"),
    "lfm2": Family(
        final_norm="model.embedding_norm",
        input_norm="operator_norm",
        query=queries.head_layer_normalised,
        note="short convolutions beside attention",
    ),
    "granitemoehybrid": Family(query=queries.rotated_if_asked, note="nine Mamba-2 to one attention; experts or none"),
    "gpt_neox": Family(
        layers="gpt_neox.layers",
        final_norm="gpt_neox.final_layer_norm",
        attention="attention",
        query=queries.fused_by_head,
        note="q, k and v of each head together, partial rotation",
    ),
    "gpt2": Family(
        layers="transformer.h",
        final_norm="transformer.ln_f",
        attention="attn",
        input_norm="ln_1",
        query=queries.unrotated,
        refused=_gpt2_refused,
        note="learned positions, one projection for q, k and v",
    ),
}
"""By `model_type`."""
