"""`spec_of`: a uniform decode shape as the `ModelSpec` whose weights, bytes and activations are counted."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from kvsim.scenario.models.attention import Attention
from kvsim.scenario.models.blocks import Experts, Layer, Mixer, Mlp, State
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.tensors import Tensor, linear, vector

if TYPE_CHECKING:
    from kvsim.scenario.shape import ModelShape


@lru_cache(maxsize=256)
def spec_of(shape: ModelShape) -> ModelSpec:
    """Return the model that `shape` describes: Llama-like, or GPT-2-like where positions are learned.

    What a Llama has besides its matrices is two norms a layer and one behind the last; what a GPT-2 has is layer
    norms, biases everywhere and the table of positions. `ModelShape.unlisted_parameters` is what a model has beyond.
    """
    is_gpt2 = shape.learned_positions is not None
    attention = Attention(
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        value_dim=shape.head_dim,
        gate_numbers=shape.num_heads * shape.head_dim * shape.attention_gate,
        qkv_bias=is_gpt2 or shape.attention_biases is not None,
        out_bias=is_gpt2 or shape.attention_biases == "qkvo",
    )
    norm_numbers = (4 if is_gpt2 else 2) * shape.hidden_size
    mixers: list[Mixer] = [*_states(shape), *[attention] * (shape.num_layers - shape.state_layers)]
    layers = tuple(
        Layer(mixers=(mixer,), mlps=(mlp,), norm_numbers=norm_numbers)
        for mixer, mlp in zip(mixers, _mlps(shape), strict=True)
    )
    return ModelSpec(
        name="shape",
        model_type="gpt2" if is_gpt2 else "llama",
        dtype=shape.dtype,
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        tied_embeddings=shape.tied_embeddings,
        layers=layers,
        max_positions=shape.learned_positions,
        has_position_limit=is_gpt2,
        outer=_outer(shape),
    )


def _states(shape: ModelShape) -> list[State]:
    """Return what stands in place of attention in the layers with a state, as one matrix and a remainder."""
    if shape.states is None:
        return []
    rows, rest = divmod(shape.states.parameters, shape.hidden_size)  # none is left but in shapes that are made up
    state = State(
        name="state",
        weights=(*linear("state", rows, shape.hidden_size), *vector("state", rest)),
        convolution_numbers=shape.states.convolution_numbers,
        recurrent_numbers=shape.states.recurrent_numbers,
        live_numbers=shape.states.live_numbers,
        flop_per_number=0,  # a uniform shape counts bytes
    )
    return [state] * shape.states.num_layers


def _mlps(shape: ModelShape) -> list[Mlp | Experts]:
    has_bias = shape.learned_positions is not None
    dense = Mlp(
        intermediate_size=shape.intermediate_size, is_gated=shape.is_gated, up_bias=has_bias, down_bias=has_bias
    )
    if shape.experts is None:
        return [dense] * shape.num_layers
    shared = shape.experts.shared_intermediate_size
    routed = Experts(
        num_experts=shape.experts.num_experts,
        num_active=shape.experts.experts_per_token,
        expert=Mlp(intermediate_size=shape.experts.intermediate_size),
        shared=Mlp(intermediate_size=shared) if shared else None,
    )
    num_dense = shape.experts.num_dense_layers
    return [dense] * num_dense + [routed] * (shape.num_layers - num_dense)


def _outer(shape: ModelShape) -> tuple[Tensor, ...]:
    if shape.learned_positions is None:
        return (*vector("norms", shape.hidden_size), *vector("norms", shape.unlisted_parameters))
    positions = Tensor(part="positions", rows=shape.learned_positions, columns=shape.hidden_size)
    return (positions, *vector("norms", 2 * shape.hidden_size), *vector("norms", shape.unlisted_parameters))
