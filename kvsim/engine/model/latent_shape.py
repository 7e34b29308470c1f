"""The sizes of a model with latents as the engine's pages have them; the simulator has none for such models."""

from __future__ import annotations

from typing import Any

from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.shapes import DType, ModelShape


def latent_shape(spec: ModelSpec, config: Any, dtype: DType) -> ModelShape:
    """Return a shape whose pages take the bytes of the latents, and whose parameters are those of the model.

    A latent has no keys apart from values. Half of its numbers count as the key of the one head that it is, and half as
    its value.
    """
    shape = ModelShape(
        num_layers=len(spec.layers),
        hidden_size=spec.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=1,
        head_dim=(config.kv_lora_rank + config.qk_rope_head_dim) // 2,
        intermediate_size=config.intermediate_size,
        vocab_size=spec.vocab_size,
        tied_embeddings=spec.tied_embeddings,
        dtype=dtype,
    )
    return shape.model_copy(update={"unlisted_parameters": spec.num_parameters - shape.num_parameters})
