"""What a segment or a call of a model moves and computes, by its shape: the amounts that its time should follow."""

from __future__ import annotations

from kvsim.scenario.models.formats import weight_format
from kvsim.scenario.shapes import BITSANDBYTES, ModelShape, Quantisation


def segment_bytes(shape: ModelShape, quantisation: Quantisation | None = None) -> dict[str, float]:
    """Return the bytes that each segment of a decode step moves for one of what its table counts.

    The weights of a layer that one token reads for ``attention_input``, ``attention_output`` and ``speculate``, those
    of the head, an embedding for ``embed``; the keys and values of a token for ``attention``, the summary of a page for
    ``select``. Layers without pages are part of the ``attention_output`` of those that have some.
    """
    weight_bytes = _weight_bytes(shape, quantisation)
    inner, outer = _layer_weights(shape)
    windows, states = shape.window_layers / shape.paged_layers, shape.state_layers / shape.paged_layers
    of_a_window = (inner + outer) * weight_bytes + (shape.window_tokens or 0) * shape.page_bytes(1)
    state_bytes = shape.state_bytes / shape.states.num_layers if shape.states else 0.0
    of_a_state = _state_layer_weights(shape) * weight_bytes + 2 * state_bytes  # read, and written
    return {
        "embed": shape.hidden_size * shape.dtype_bytes,
        "attention_input": inner * weight_bytes,
        "select": shape.summary_bytes(1),
        "speculate": shape.hidden_size * shape.num_heads * shape.head_dim * weight_bytes * (1 + shape.attention_gate),
        "attention": shape.page_bytes(1),
        "attention_output": outer * weight_bytes + windows * of_a_window + states * of_a_state,
        "head": shape.vocab_size * shape.hidden_size * shape.dtype_bytes,
    }


def read_weights_bytes(shape: ModelShape, quantisation: Quantisation | None = None) -> float:
    """Return the bytes of weights that every step reads: the layers' and the head's, of the embeddings none."""
    return _weights(shape) * _weight_bytes(shape, quantisation) + segment_bytes(shape, quantisation)["head"]


def call_bytes(shape: ModelShape, quantisation: Quantisation | None, cached_tokens: float, batch: int) -> float:
    """Return the bytes of weights, keys, values and states that one call of the model moves."""
    kv_bytes = batch * _held_tokens(shape, cached_tokens) * shape.page_bytes(1)
    return read_weights_bytes(shape, quantisation) + kv_bytes + 2 * batch * shape.state_bytes  # read, and written


def call_flop(shape: ModelShape, new_tokens: float, cached_tokens: float, batch: int) -> float:
    """Return the operations of one call: two for each weight of the layers and token, the head for the last one only.

    Attention takes four for each query head's number and token attended to; of the new ones half on average. What a
    state takes besides its weights is left out: a few operations for each of its numbers.
    """
    tokens = batch * new_tokens
    attended = _held_tokens(shape, cached_tokens + new_tokens / 2)
    weights = _weights(shape) * tokens + shape.vocab_size * shape.hidden_size * batch
    return 2.0 * weights + 4.0 * shape.num_heads * shape.head_dim * tokens * attended


def _weight_bytes(shape: ModelShape, quantisation: Quantisation | None) -> float:
    """Return the bytes of one weight of the layers."""
    form = BITSANDBYTES[quantisation] if quantisation else (shape.weights or shape.dtype)
    return weight_format(form).number_bytes


def _held_tokens(shape: ModelShape, context_tokens: float) -> float:
    """Return the tokens that all layers together attend to."""
    in_windows = min(context_tokens, shape.window_tokens or 0)
    return shape.paged_layers * context_tokens + shape.window_layers * in_windows


def _weights(shape: ModelShape) -> float:
    """Return the weights of all layers that a token visits."""
    attending = shape.num_layers - shape.state_layers
    return attending * sum(_layer_weights(shape)) + shape.state_layers * _state_layer_weights(shape)


def _layer_weights(shape: ModelShape) -> tuple[float, float]:
    """Return the weights of a layer's projections before attention, and behind it with the MLP that a token visits."""
    query, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    inner = shape.hidden_size * (query * (1 + shape.attention_gate) + 2 * kv)
    return inner, shape.hidden_size * query + _mlp_weights(shape)


def _state_layer_weights(shape: ModelShape) -> float:
    """Return the weights of a layer with a state, and of the MLP that a token visits there."""
    return shape.states.parameters + _mlp_weights(shape) if shape.states else 0.0


def _mlp_weights(shape: ModelShape) -> float:
    return shape.hidden_size * (3 if shape.is_gated else 2) * _visited_size(shape)


def _visited_size(shape: ModelShape) -> float:
    """Return the intermediate size of the MLPs that a token visits in a layer, the mean over layers."""
    experts = shape.experts
    if experts is None:
        return shape.intermediate_size
    visited = experts.experts_per_token * experts.intermediate_size + experts.shared_intermediate_size
    dense_frac = experts.num_dense_layers / shape.num_layers
    return dense_frac * shape.intermediate_size + (1 - dense_frac) * visited
