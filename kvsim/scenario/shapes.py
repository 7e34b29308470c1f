"""Shapes of models by name, path or configuration: `ModelSpec` as the uniform sizes that decode works with.

A model is refused here, by the name of the feature, where decode in pages cannot express it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kvsim.errors import ScenarioError
from kvsim.scenario.models.attention import Attention
from kvsim.scenario.models.blocks import Experts, Mixer, Mlp, State
from kvsim.scenario.models.find import find_model
from kvsim.scenario.models.formats import WEIGHT_FORMATS
from kvsim.scenario.models.known import known_model, known_models
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.uniform import differences, shortest_window, window_layers
from kvsim.scenario.shape import (
    BITSANDBYTES,
    DTYPE_BYTES,
    DType,
    ExpertSizes,
    KVName,
    ModelShape,
    Quantisation,
    StateSizes,
    WeightsName,
    check_context,
    check_keys,
)

__all__ = [
    "BITSANDBYTES",
    "DTYPE_BYTES",
    "SHAPES",
    "DType",
    "ExpertSizes",
    "KVName",
    "ModelShape",
    "Quantisation",
    "StateSizes",
    "WeightsName",
    "check_context",
    "check_keys",
    "find_shape",
    "shape_of_spec",
    "unpaged",
]


def shape_of_spec(spec: ModelSpec, dtype: DType | None = None) -> ModelShape:
    """Return the uniform shape of a model.

    Layers with a sliding window or a state have no pages beside layers that attend to the whole context. Where all have
    a window, and where some attend in chunks, the shape holds for contexts up to it (`ModelShape.window_tokens`).

    Parameters
    ----------
    dtype
        Of activations, and of weights and KV cache that have no format of their own. By default fp16 where the model
        was published in it, else bf16: engines compute in 16 bits what is published in 32.

    Raises
    ------
    ScenarioError
        If decode cannot express the model; what it has is named.
    """
    problems = unpaged(spec, shortest_window(spec))
    if problems:
        raise ScenarioError(
            f"{spec.name}: pages of layers that attend to the whole context and are alike only; {'; '.join(problems)}"
        )
    window = shortest_window(spec) if differences(spec) or window_layers(spec) else None
    base = _base(spec, dtype or ("fp16" if spec.dtype == "fp16" else "bf16"))
    return base.model_copy(
        update={
            "unlisted_parameters": spec.num_parameters - base.num_parameters,
            "window_tokens": window,
            "window_layers": window_layers(spec) if window else 0,
        }
    )


def unpaged(spec: ModelSpec, context_tokens: int | None = None) -> list[str]:
    """Return what keeps decode from simulating a model in pages, in a few words each; empty where nothing does.

    Parameters
    ----------
    context_tokens
        The longest context; by default the positions that the model was made for.
    """
    return differences(spec, context_tokens) or _blocks(spec)


def _blocks(spec: ModelSpec) -> list[str]:
    """Return the features of attention and MLPs that `ModelShape` has no field for."""
    attention = _attention(spec)
    mlps = [mlp for layer in spec.layers for mlp in layer.mlps]
    num_experts = sum(isinstance(mlp, Experts) for mlp in mlps)
    has = {
        "a gate on the output of its attention that is not as wide as its queries": (
            attention.gate_numbers not in (0, attention.num_heads * attention.head_dim)
        ),
        "states of several sorts": len({mixer for mixer in _mixers(spec) if isinstance(mixer, State)}) > 1,
        "values that are keys": attention.values_are_keys,
        "further weights in its layers": any(layer.extra for layer in spec.layers),
        "embeddings of another width than its layers": spec.embedding_size not in (None, spec.hidden_size),
        "layers with several MLPs, or none": any(len(layer.mlps) != 1 for layer in spec.layers),
        "MLPs of several sizes": len({(isinstance(mlp, Experts), mlp) for mlp in mlps}) > 1 + (num_experts > 0),
        "layers with experts before layers without": any(isinstance(mlp, Experts) for mlp in mlps[:-num_experts]),
        "experts of another input size": any(isinstance(mlp, Experts) and mlp.expert_input_size for mlp in mlps),
        "experts without a gate": any(isinstance(mlp, Experts) and not mlp.expert.is_gated for mlp in mlps),
    }
    return [f"it has {name}" for name, is_there in has.items() if is_there]


def _attention(spec: ModelSpec) -> Attention:
    return next(mixer for mixer in _mixers(spec) if isinstance(mixer, Attention))


def _mixers(spec: ModelSpec) -> Iterator[Mixer]:
    return (mixer for layer in spec.layers for mixer in layer.mixers)


def _base(spec: ModelSpec, dtype: DType) -> ModelShape:
    attention = _attention(spec)
    mlps = [layer.mlps[0] for layer in spec.layers]
    dense = next((mlp for mlp in mlps if isinstance(mlp, Mlp)), None)
    routed = next((mlp for mlp in mlps if isinstance(mlp, Experts)), None)
    inner = dense or (routed.expert if routed else None)
    assert inner is not None  # each layer has an MLP
    positions = next((tensor.rows for tensor in spec.outer if tensor.part == "positions"), None)
    packed = spec.quantisation.form.name if spec.quantisation else None
    return ModelShape(
        num_layers=len(spec.layers),
        hidden_size=spec.hidden_size,
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        intermediate_size=inner.intermediate_size,
        vocab_size=spec.vocab_size,
        tied_embeddings=spec.tied_embeddings,
        dtype=dtype,
        learned_positions=positions if not inner.is_gated else None,
        attention_biases=None if positions or not attention.qkv_bias else ("qkvo" if attention.out_bias else "qkv"),
        plain_mlp=positions is None and not inner.is_gated,
        experts=_experts(routed, mlps) if routed else None,
        weights=packed if packed in WEIGHT_FORMATS else None,
        attention_gate=attention.gate_numbers > 0,
        states=_states(spec),
    )


def _states(spec: ModelSpec) -> StateSizes | None:
    """Return the states of a model's layers, with as many inputs of a convolution as transformers holds."""
    states = [mixer for mixer in _mixers(spec) if isinstance(mixer, State)]
    if not states:
        return None
    state = states[0]
    channels = state.convolution_numbers // max(state.kernel - 1, 1)
    return StateSizes(
        num_layers=len(states),
        parameters=state.matrix_parameters,
        convolution_numbers=channels * state.kernel,
        recurrent_numbers=state.recurrent_numbers,
        live_numbers=state.live_numbers,
    )


def _experts(routed: Experts, mlps: list[Mlp | Experts]) -> ExpertSizes:
    return ExpertSizes(
        num_experts=routed.num_experts,
        experts_per_token=routed.num_active,
        intermediate_size=routed.expert.intermediate_size,
        shared_intermediate_size=routed.shared.intermediate_size if routed.shared else 0,
        num_dense_layers=sum(isinstance(mlp, Mlp) for mlp in mlps),
    )


def find_shape(text: str, *, base_dir: Path | None = None) -> ModelShape:
    """Return the shape of the model that `text` names; see `find_model`.

    Parameters
    ----------
    base_dir
        Where a path starts that is none from here.

    Raises
    ------
    ScenarioError
        If there is no such model, or decode cannot express it.
    """
    if text in known_models():
        return SHAPES[text]
    return shape_of_spec(find_model(text, base_dir=None if Path(text).exists() else base_dir))


class _KnownShapes(Mapping[str, ModelShape]):
    """The shapes of all models that ship, each made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, ModelShape] = {}

    def __getitem__(self, name: str) -> ModelShape:
        if name not in known_models():
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = shape_of_spec(known_model(name))
        return self._made[name]

    def __contains__(self, name: Any) -> bool:
        return name in known_models()

    def __iter__(self) -> Iterator[str]:
        return (name for name in known_models() if not unpaged(known_model(name), shortest_window(known_model(name))))

    def __len__(self) -> int:
        return sum(1 for _ in self)


SHAPES: Mapping[str, ModelShape] = _KnownShapes()
"""Shapes by the name that a scenario and `kvsim calibrate --shape` use.

Every model that ships is contained; one that decode cannot express is refused when it is looked up, and not iterated.
"""
