"""Model shapes: parameters as the published models have them, activations as an engine reports, contexts that end."""

from __future__ import annotations

import pytest

from kvsim.errors import CapacityError
from kvsim.scenario.shapes import SHAPES, ModelShape, check_context


def gpt2() -> ModelShape:
    return ModelShape(
        num_layers=12,
        hidden_size=768,
        num_heads=12,
        num_kv_heads=12,
        head_dim=64,
        intermediate_size=3072,
        vocab_size=50257,
        tied_embeddings=True,
        learned_positions=1024,
        dtype="fp32",
    )


def test_qwen_has_the_biases_of_its_projections() -> None:
    """The published checkpoint of Qwen2.5-7B has 7,615,616,512 parameters."""
    assert SHAPES["qwen2.5-7b"].num_parameters == 7_615_616_512


def test_the_activations_of_a_step_are_those_that_vllm_reports() -> None:
    """2.07 GiB for Llama-3.1-8B and a step of 20,000 tokens (vllm issue 10517)."""
    assert SHAPES["llama-3-8b"].activation_bytes(20_000, 1) / 2**30 == pytest.approx(2.07, rel=0.01)


def test_the_activations_of_a_step_do_not_grow_with_the_sequences_but_for_their_logits() -> None:
    shape = SHAPES["llama-3-8b"]
    assert shape.activation_bytes(512, 64) - shape.activation_bytes(512, 1) == 63 * 128_256 * 4


@pytest.mark.parametrize(
    ("shape", "fits", "feature"),
    [(gpt2(), 1024, "learned_positions"), (SHAPES["gemma-2-9b"], 4096, "sliding window of 4,096 tokens")],
)
def test_a_context_beyond_what_a_shape_counts_is_refused_by_the_name_of_the_feature(shape, fits, feature) -> None:
    check_context(shape, fits, "a")
    with pytest.raises(CapacityError, match=feature) as refused:
        check_context(shape, fits + 1, "a")
    assert "\n" not in str(refused.value)


def test_a_rotary_model_has_no_such_end() -> None:
    check_context(SHAPES["llama-3-8b"], 10**6, "a")


def test_new_fields_that_are_absent_leave_no_trace_in_what_is_written() -> None:
    assert not {"attention_biases", "window_tokens"} & set(SHAPES["llama-3-8b"].model_dump(mode="json"))
    written = SHAPES["gemma-2-9b"].model_dump(mode="json")
    assert ModelShape.model_validate(written) == SHAPES["gemma-2-9b"]
