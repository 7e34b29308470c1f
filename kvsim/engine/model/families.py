"""What the engine asks of a model of any family: its layers with pages, their attention, queries and weights.

Layers are counted among those that have pages (`kvsim.engine.model.layers`), as everywhere in the engine. What differs
from family to family is in `kvsim.engine.model.family_table`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kvsim.engine.model import latent
from kvsim.engine.model.family_table import FAMILIES, Family
from kvsim.engine.model.latent_shape import latent_shape
from kvsim.engine.model.layers import paged_layers, window_of_all
from kvsim.engine.model.part import Part
from kvsim.engine.model.queries import Rotary as Rotary
from kvsim.engine.model.weighting import Weighting
from kvsim.errors import KvsimError, ScenarioError
from kvsim.scenario.checks import check_length
from kvsim.scenario.models.config import from_config
from kvsim.scenario.models.suggest import suggestion
from kvsim.scenario.shapes import DType, ModelShape, shape_of_spec

TORCH_DTYPES: dict[DType, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes of weights and KV cache by the name that profiles and traces write."""


def decoder_layers(model: Any) -> list[Any]:
    """Return the decoder layers that have pages, in order; of a part, those that are in it."""
    if isinstance(model, Part):
        return decoder_layers(model.model)[model.layers.start : model.layers.stop]
    layers = list(model.get_submodule(family_of(model).layers))
    return [layers[place] for place in paged_layers(model.config)]


def final_norm(model: Any) -> nn.Module:
    """Return the norm behind the last layer."""
    norm: nn.Module = model.get_submodule(family_of(model).final_norm)
    return norm


def attention_modules(model: Any) -> list[nn.Module]:
    """Return the attention of each layer with pages: what transformers hands to an attention function."""
    name = family_of(model).attention
    return [layer.get_submodule(name) for layer in decoder_layers(model)]


def weightings_of(model: Any) -> list[Weighting]:
    """Return how each layer with pages turns products into weights."""
    weighting = family_of(model).weighting
    return [weighting(attention) for attention in attention_modules(model)]


class Queries:
    """The queries that layers with pages make, as they meet what pages hold."""

    def __init__(self, model: Any) -> None:
        self._family = family_of(model)
        self._layers = decoder_layers(model)
        self._attentions: list[Any] = attention_modules(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> Queries:
        """Return the same: it holds parts of the model, which copies of a run share."""
        del memo
        return self

    def of(self, layer: int, hidden: Tensor, rotary: Rotary | None) -> Tensor:
        """Return the queries of what enters `layer`, ``[n, 1, hidden_size]``: ``[n, num_heads, 1, head_dim]``."""
        norm = self._family.input_norm
        entering = hidden if norm is None else getattr(self._layers[layer], norm)(hidden)
        return self.inward(layer, self._family.query(self._attentions[layer], entering, rotary))

    def inward(self, layer: int, query: Tensor) -> Tensor:
        """Return a query of the attention as it meets what pages hold: the same where these are keys."""
        return latent.to_latent(self._attentions[layer], query) if self._family.has_latent else query

    def outward(self, layer: int, output: Tensor) -> Tensor:
        """Return a sum of what pages hold as values of the heads: the same where these are values."""
        return latent.from_latent(self._attentions[layer], output) if self._family.has_latent else output


def shape_of(model: Any) -> ModelShape:
    """Return the sizes of a model, with the dtype that its weights are held in.

    Raises
    ------
    KvsimError
        If it is no causal LM with its head, kvsim does not read such models, or the weights are in a dtype that it has
        no name for.
    """
    check_model(model)
    config = model.config
    check_config(config, config.name_or_path or "model")
    names: dict[torch.dtype, DType] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    if model.dtype not in names:
        raise KvsimError(f"weights are in {model.dtype}; load the model as one of {', '.join(TORCH_DTYPES)}")
    return shape_of_config(config, names[model.dtype])


def shape_of_config(config: Any, dtype: DType) -> ModelShape:
    """Return the sizes that a configuration of transformers gives.

    Raises
    ------
    KvsimError
        If decode cannot express them.
    """
    keys = config.to_dict()
    keys.pop("quantization_config", None)  # packed as they load, not in the checkpoint
    spec = from_config(keys)
    return latent_shape(spec, config, dtype) if FAMILIES[config.model_type].has_latent else shape_of_spec(spec, dtype)


def context_limit_of(model: Any) -> int | None:
    """Return the most tokens that kvsim reads with a model; None where nothing limits them.

    Those that the configuration says, and no more than the window where every layer has one.
    """
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    limits = [limit for limit in (positions, window_of_all(model.config)) if limit is not None]
    return min(limits, default=None)


def check_readable(model: Any, num_tokens: int, *, where: str) -> None:
    """Refuse a text that a model has no positions for, or whose oldest tokens every layer would drop.

    Raises
    ------
    ScenarioError
        Naming the limit.
    """
    check_length(num_tokens, getattr(model.config, "max_position_embeddings", None), where=where)
    window = window_of_all(model.config)
    if window is not None and num_tokens > window:
        raise ScenarioError(
            f"{where}: {num_tokens} tokens, every layer of the model attends to a window of {window}: beyond it there "
            "is nothing to page, transformers' own cache holds the window"
        )


def head_dim_of(config: Any) -> int:
    """Return the numbers in one head's key; configurations that leave it out mean the hidden size over the heads."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def num_kv_heads_of(config: Any) -> int:
    """Return the heads that have keys of their own: all, where a configuration does not say."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def check_config(config: Any, name: Path | str) -> None:
    """Refuse models of a type that is not in `FAMILIES`, and what of a family the engine does not read.

    Raises
    ------
    KvsimError
        Naming the feature.
    """
    check_model_type(config.model_type, name)
    refused = FAMILIES[config.model_type].refused(config)
    if refused is not None:
        raise KvsimError(f"{name}: {refused}")


def check_whole_context(config: Any, name: Path | str) -> None:
    """Refuse models without keys and values of every token, for caches that keep the states of whole prompts.

    Raises
    ------
    KvsimError
        Saying what is kept.
    """
    if window_of_all(config) is not None or len(paged_layers(config)) < config.num_hidden_layers:
        raise KvsimError(
            f"{name}: some layers attend to a sliding window or hold a state; states of prompts are kept of models "
            "with full attention only"
        )
    if FAMILIES[config.model_type].has_latent:
        raise KvsimError(
            f"{name}: its layers hold one latent a token for all heads; states of prompts are kept as keys and values"
        )


def check_model(model: Any) -> None:
    """Refuse what is no causal language model of transformers with its head.

    Raises
    ------
    KvsimError
        Saying how to load one.
    """
    how = "load one with kvsim.engine.model.loading.load_model, or AutoModelForCausalLM.from_pretrained"
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise KvsimError(f"a model of transformers is needed, found a {type(model).__name__}; {how}")
    check_config(model.config, type(model).__name__)
    try:
        model.get_submodule(family_of(model).layers)
        whole: Any = model
        has_head = whole.get_output_embeddings() is not None
    except AttributeError:
        has_head = False
    if not has_head:
        raise KvsimError(f"{type(model).__name__}: a model with its LM head is needed, this has none; {how}")


def check_model_type(model_type: str, name: Path | str) -> None:
    """Refuse models of a type that is not in `FAMILIES`.

    Raises
    ------
    KvsimError
        Naming the nearest that kvsim reads.
    """
    if model_type not in FAMILIES:
        hint = suggestion(model_type, FAMILIES, "families are read", examples=("llama", "qwen3", "gemma3_text"))
        raise KvsimError(f"{name}: the engine does not read models of type {model_type!r}{hint}")


def layers_name(model: Any) -> str:
    """Return what the tensors of decoder layers begin with, below the model without its head: ``layers`` or ``h``."""
    return family_of(model).layers.rpartition(".")[2]


def family_of(model: Any) -> Family:
    """Return the family of a model that the engine reads."""
    return FAMILIES[model.config.model_type]
