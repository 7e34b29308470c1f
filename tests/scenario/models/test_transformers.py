"""Parameters and caches of transformers' own models, the strongest reference: free on the meta device."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kvsim.scenario.models.attention import Attention, Latent
from kvsim.scenario.models.blocks import State
from kvsim.scenario.models.config import from_config
from kvsim.scenario.models.families.table import FAMILIES
from kvsim.scenario.models.known import known_model, known_models
from kvsim.scenario.models.memory import kv_bytes
from kvsim.scenario.models.spec import ModelSpec
from tests.scenario.models.tiny_configs import TINY

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SAME_CODE = {"kimi_k2": "deepseek_v3"}
"""Families that transformers has no name of its own for."""

BROADCAST = {"falcon": 2}
"""Heads that share a key where transformers copies it to all of them before it is cached."""


def config_of(config: dict[str, Any], model_type: str) -> Any:
    """Return transformers' configuration of the same keys."""
    if SAME_CODE.get(model_type, model_type) not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    text = copy.deepcopy(dict(config.get("text_config") or config))
    if "tie_word_embeddings" in config:
        text["tie_word_embeddings"] = config["tie_word_embeddings"]
    for key in ("model_type", "quantization_config", "torch_dtype", "dtype"):
        text.pop(key, None)
    if model_type == "falcon_h1":
        text.setdefault("mamba_d_ssm", text["mamba_n_heads"] * text["mamba_d_head"])
    return transformers.AutoConfig.for_model(SAME_CODE.get(model_type, model_type), **text)


def num_parameters(model: Any) -> int:
    """Return what a checkpoint of a model holds: its parameters, and the router's correction, which is a buffer."""
    numbers = sum(weight.numel() for weight in model.parameters())
    return numbers + sum(b.numel() for name, b in model.named_buffers() if name.endswith("e_score_correction_bias"))


def on_meta(config: Any) -> Any:
    """Return a model without memory."""
    config.pad_token_id = None
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", known_models())
def test_a_model_that_ships_has_exactly_the_parameters_of_transformers(name: str) -> None:
    spec = known_model(name)
    assert num_parameters(on_meta(config_of(dict(known_models()[name].config), spec.model_type))) == spec.num_parameters


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_has_exactly_the_parameters_of_transformers(model_type: str) -> None:
    spec = from_config(TINY[model_type])
    assert num_parameters(on_meta(config_of(TINY[model_type], model_type))) == spec.num_parameters


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("deepseek_v2", {"mlp_bias": True}),
        ("ernie4_5_moe", {"use_bias": True}),
        ("ernie4_5_moe", {"moe_layer_end_index": 2}),
        ("ernie4_5_moe", {"moe_layer_end_index": 4}),  # behind the last layer
        ("falcon", {"num_ln_in_parallel_attn": 1}),
        ("falcon", {"num_ln_in_parallel_attn": 4}),  # one: there are two only where it is 2
        ("gemma3n_text", {"attention_bias": True}),
        ("lfm2", {"layer_types": None}),
        ("lfm2", {"layer_types": None, "full_attn_idxs": [2]}),
        ("nemotron_h", {"mlp_bias": True}),
        ("nemotron_h", {"tie_word_embeddings": True}),
        ("qwen3_5_text", {"attention_bias": True}),
        ("qwen3_next", {"attention_bias": True}),
    ],
)
def test_a_family_has_the_parameters_of_transformers_with_other_features(
    model_type: str, changes: dict[str, Any]
) -> None:
    config = {**TINY[model_type], **changes}
    spec = from_config(config)
    assert num_parameters(on_meta(config_of(config, model_type))) == spec.num_parameters


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_holds_the_bytes_of_transformers_cache(model_type: str) -> None:
    """40 tokens, windows of 16. Between steps sliding layers there hold a token less, convolutions an input more."""
    spec = from_config(TINY[model_type])
    model = transformers.AutoModelForCausalLM.from_config(config_of(TINY[model_type], model_type)).float().eval()
    with torch.no_grad():
        output = model(torch.arange(40)[None] + 3, use_cache=True)
    cache = next(output[name] for name in ("cache", "past_key_values") if name in output)

    copies = BROADCAST.get(model_type, 1)
    assert bytes_of(tensor for layer in cache.layers for tensor in keys_of(layer)) == copies * held_bytes(spec, 40)
    recurrent = [state for layer in cache.layers for state in states_of(layer, "recurrent_states")]
    recurrent += [state for state in getattr(cache, "linear_cache", []) if len(state)]
    assert bytes_of(recurrent) == 4 * sum(state.recurrent_numbers for state in states(spec))
    convolutions = [state for layer in cache.layers for state in states_of(layer, "conv_states")]
    kernel = convolutions[0].shape[-1] if convolutions else 2
    assert bytes_of(convolutions) == 4 * sum(s.convolution_numbers * kernel // (kernel - 1) for s in states(spec))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_bytes_of_a_family_are_its_tokens_and_its_states(model_type: str) -> None:
    spec = from_config(TINY[model_type])
    of_states = 4 * sum(state.convolution_numbers + state.recurrent_numbers for state in states(spec))
    assert kv_bytes(spec, 12, "fp32") == held_bytes(spec, 12) + of_states


def states(spec: ModelSpec) -> list[State]:
    return [mixer for layer in spec.layers for mixer in layer.mixers if isinstance(mixer, State)]


def held_bytes(spec: ModelSpec, num_tokens: int) -> int:
    """Return the float32 bytes of keys and values between two steps: a window without the token to come."""
    numbers = 0
    for mixer in (mixer for layer in spec.layers for mixer in layer.mixers):
        if isinstance(mixer, Attention | Latent):
            limit = mixer.max_held_tokens
            numbers += mixer.held_numbers * (num_tokens if limit is None else min(num_tokens, limit - 1))
    return 4 * numbers


def keys_of(layer: Any) -> list[Any]:
    tensors = [getattr(layer, name, None) for name in ("keys", "values", "indexer_keys")]
    return [tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]


def states_of(layer: Any, name: str) -> list[Any]:
    return [state for state in getattr(layer, name, {}).values() if state is not None]


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
