"""Mixers whose memory does not grow: how large the weights and the state of each kind are."""

from __future__ import annotations

from kvsim.scenario.models.blocks import State
from kvsim.scenario.models.tensors import linear, vector


def mamba2(
    *,
    hidden_size: int,
    num_heads: int,
    head_dim: int,
    num_groups: int,
    state_size: int,
    kernel: int,
    conv_bias: bool,
    in_bias: bool,
    out_bias: bool,
    has_norm: bool,
) -> State:
    """Return a state space with one decay for each head (Mamba-2)."""
    inner = num_heads * head_dim
    channels = inner + 2 * num_groups * state_size
    weights = (
        *linear("state", inner + channels + num_heads, hidden_size, has_bias=in_bias),
        *vector("state", channels * (kernel + conv_bias)),
        *vector("state", 3 * num_heads),
        *vector("norms", inner * has_norm),
        *linear("state", hidden_size, inner, has_bias=out_bias),
    )
    return State(
        name="mamba2",
        weights=weights,
        convolution_numbers=channels * (kernel - 1),
        kernel=kernel,
        recurrent_numbers=inner * state_size,
        live_numbers=inner + channels + num_heads + inner,
        flop_per_number=5,  # decay, outer product, sum; product with the output vector and its sum
    )


def mamba(
    *,
    hidden_size: int,
    inner_size: int,
    state_size: int,
    step_rank: int,
    kernel: int,
    conv_bias: bool,
    has_bias: bool,
    norm_numbers: int,
) -> State:
    """Return a state space with a decay for each channel and state (Mamba)."""
    weights = (
        *linear("state", 2 * inner_size, hidden_size, has_bias=has_bias),
        *vector("state", inner_size * (kernel + conv_bias)),
        *linear("state", step_rank + 2 * state_size, inner_size),
        *linear("state", inner_size, step_rank, has_bias=True),
        *vector("state", inner_size * (state_size + 1)),
        *vector("norms", norm_numbers),
        *linear("state", hidden_size, inner_size, has_bias=has_bias),
    )
    return State(
        name="mamba",
        weights=weights,
        convolution_numbers=inner_size * (kernel - 1),
        kernel=kernel,
        recurrent_numbers=inner_size * state_size,
        live_numbers=4 * inner_size,
        flop_per_number=6,  # as Mamba-2, and the decay of each channel and state is computed
    )


def gated_delta(
    *, hidden_size: int, num_key_heads: int, key_dim: int, num_value_heads: int, value_dim: int, kernel: int
) -> State:
    """Return a gated delta net (Qwen3-Next): queries, keys and values through a convolution, a matrix for each head."""
    keys, values = num_key_heads * key_dim, num_value_heads * value_dim
    channels = 2 * keys + values
    weights = (
        *linear("state", channels, hidden_size),
        *linear("state", values, hidden_size),
        *linear("state", 2 * num_value_heads, hidden_size),
        *vector("state", channels * kernel),
        *vector("state", 2 * num_value_heads),
        *vector("norms", value_dim),
        *linear("state", hidden_size, values),
    )
    return State(
        name="gated delta net",
        weights=weights,
        convolution_numbers=channels * (kernel - 1),
        kernel=kernel,
        recurrent_numbers=num_value_heads * key_dim * value_dim,
        live_numbers=channels + 2 * values,
        flop_per_number=7,  # decay; what the key reads; the correction's outer product and sum; what the query reads
    )


def short_convolution(*, hidden_size: int, kernel: int, has_bias: bool) -> State:
    """Return a gated short convolution (LFM2)."""
    weights = (
        *linear("state", 3 * hidden_size, hidden_size, has_bias=has_bias),
        *vector("state", hidden_size * (kernel + has_bias)),
        *linear("state", hidden_size, hidden_size, has_bias=has_bias),
    )
    return State(
        name="short convolution",
        weights=weights,
        convolution_numbers=hidden_size * (kernel - 1),
        kernel=kernel,
        recurrent_numbers=0,
        live_numbers=4 * hidden_size,
        flop_per_number=0,
    )


def lightning(*, hidden_size: int, num_heads: int, head_dim: int) -> State:
    """Return lightning attention (MiniMax-Text-01): a decaying sum of products of keys and values for each head."""
    inner = num_heads * head_dim
    weights = (
        *linear("state", 3 * inner, hidden_size),
        *linear("state", inner, hidden_size),
        *vector("norms", inner),
        *linear("state", hidden_size, inner),
    )
    return State(
        name="lightning attention",
        weights=weights,
        convolution_numbers=0,
        recurrent_numbers=num_heads * head_dim * head_dim,
        live_numbers=5 * inner,
        flop_per_number=5,
    )
