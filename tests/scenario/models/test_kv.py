"""Bytes of the KV cache: published figures, windows, shared layers, latents, states and formats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvsim.errors import ScenarioError
from kvsim.scenario.models.config import from_config
from kvsim.scenario.models.known import known_model, known_models
from kvsim.scenario.models.memory import kv_bytes, kv_pieces
from tests.scenario.models.tiny_configs import TINY


@pytest.mark.parametrize(
    ("name", "token_bytes"),
    [
        ("deepseek-v3", 70_272),  # arXiv 2505.09343, table 1: 70.272 KB
        ("llama-3.1-405b", 516_096),  # the same table: 516.096 KB
        ("qwen2.5-72b", 327_680),  # the same table: 327.680 KB
        ("llama-3.1-8b", 131_072),  # 2 x 32 layers x 8 heads x 128 x 2
        ("llama-2-7b", 524_288),
        ("qwen3-8b", 147_456),  # 2 x 36 x 8 x 128 x 2
        ("qwen2.5-7b", 57_344),
        ("smollm2-135m", 23_040),
    ],
)
def test_bytes_of_a_token_are_the_published_ones(name: str, token_bytes: int) -> None:
    (piece,) = kv_pieces(known_model(name))
    assert (piece.constant_bytes, piece.token_bytes) == (0, token_bytes)
    assert kv_bytes(known_model(name), 1000) == 1000 * token_bytes


def test_windows_of_gemma_2_save_a_quarter_at_8k() -> None:
    """42 layers of 8 heads of 256; every other one holds 4,096 tokens."""
    spec = known_model("gemma-2-9b")
    layer_token_bytes = 2 * 8 * 256 * 2
    assert kv_bytes(spec, 8192) == 21 * layer_token_bytes * (8192 + 4096)
    assert kv_bytes(spec, 8192) == 0.75 * 42 * layer_token_bytes * 8192
    below, above = kv_pieces(spec)
    assert (below.from_tokens, below.constant_bytes, below.token_bytes) == (0, 0, 42 * layer_token_bytes)
    assert (above.from_tokens, above.token_bytes) == (4096, 21 * layer_token_bytes)


def test_gpt_oss_holds_128_tokens_in_half_of_its_layers() -> None:
    spec = known_model("gpt-oss-20b")
    layer_token_bytes = 2 * 8 * 64 * 2
    assert kv_bytes(spec, 131_072) == 12 * layer_token_bytes * (131_072 + 128)


def test_gemma_3_has_one_full_layer_in_six() -> None:
    """62 layers of 16 heads of 128: 10 full, 52 with a window of 1,024."""
    layer_token_bytes = 2 * 16 * 128 * 2
    assert kv_bytes(known_model("gemma-3-27b"), 131_072) == layer_token_bytes * (10 * 131_072 + 52 * 1024)


def test_a_model_with_windows_only_stops_growing() -> None:
    spec = known_model("mistral-7b-v0.1")
    assert kv_bytes(spec, 4096) == kv_bytes(spec, 131_072) == 4096 * 131_072
    assert kv_pieces(spec)[-1].token_bytes == 0


def test_layers_that_read_earlier_keys_hold_none() -> None:
    """35 layers, the last 20 of which share: 12 with a window of 512 and heads of 256, 3 full with heads of 512."""
    spec = known_model("gemma-4-e2b")
    assert sum(layer.kind == "shared" for layer in spec.layers) == 20
    assert kv_bytes(spec, 10_000) == 2 * 2 * (12 * 256 * 512 + 3 * 512 * 10_000)


def test_states_do_not_grow() -> None:
    """Qwen3-Next: 36 delta nets of 32 matrices of 128 x 128 behind a convolution over 8,192 channels."""
    spec = known_model("qwen3-next-80b-a3b")
    states = 36 * 2 * (32 * 128 * 128 + 3 * 8192)
    assert kv_bytes(spec, 0) == states
    assert kv_bytes(spec, 1000) == states + 1000 * 12 * 2 * 2 * 256 * 2
    assert kv_bytes(spec, 0, state="fp32") == 36 * (4 * 32 * 128 * 128 + 2 * 3 * 8192)


def test_states_are_held_in_the_format_that_a_configuration_asks_for() -> None:
    """Qwen3.5 asks for float32, and quantised keys leave states alone."""
    spec = known_model("qwen3.5-9b")
    states = 24 * (4 * 32 * 128 * 128 + 2 * 3 * 8192)
    assert kv_bytes(spec, 0) == kv_bytes(spec, 0, "int4") == states
    assert kv_bytes(spec, 0, state="bf16") < states


def test_an_indexer_holds_one_more_key_a_token() -> None:
    latent = kv_pieces(known_model("deepseek-v3"))[0].token_bytes
    assert kv_pieces(known_model("deepseek-v3.2"))[0].token_bytes == latent + 61 * 128 * 2


def test_formats_add_their_scales() -> None:
    """Llama 3.1 8B: 65,536 numbers a token in 512 vectors of 128."""
    spec = known_model("llama-3.1-8b")
    assert kv_bytes(spec, 10, "fp32") == 10 * 262_144
    assert kv_bytes(spec, 10, "fp8") == 10 * 65_536
    assert kv_bytes(spec, 10, "int8") == 10 * (65_536 + 4 * 512)
    assert kv_bytes(spec, 10, "int4") == 10 * (32_768 + 4 * 512)


def test_an_unknown_format_is_named_with_the_nearest() -> None:
    with pytest.raises(ScenarioError, match="unknown format of the KV cache 'fp9'; did you mean 'fp8'"):
        kv_bytes(known_model("llama-3.1-8b"), 1, "fp9")


@given(name=st.sampled_from(sorted(known_models())), num_tokens=st.integers(0, 300_000))
def test_pieces_say_the_same_as_the_count(name: str, num_tokens: int) -> None:
    spec = known_model(name)
    piece = [piece for piece in kv_pieces(spec) if piece.from_tokens <= num_tokens][-1]
    assert piece.constant_bytes + piece.token_bytes * num_tokens == kv_bytes(spec, num_tokens)


@given(model_type=st.sampled_from(sorted(TINY)), num_tokens=st.integers(0, 64))
def test_a_longer_context_never_takes_less(model_type: str, num_tokens: int) -> None:
    spec = from_config(TINY[model_type])
    assert kv_bytes(spec, num_tokens) <= kv_bytes(spec, num_tokens + 1)
    assert kv_bytes(spec, num_tokens, "fp8") <= kv_bytes(spec, num_tokens)
