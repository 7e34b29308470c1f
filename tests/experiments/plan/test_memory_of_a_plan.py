"""What fits: equal to what engines reported, block for block."""

from __future__ import annotations

import pytest

from kvsim.experiments.plan.memory import BLOCK_TOKENS, memory_of
from kvsim.experiments.plan.request import Request, make_request
from kvsim.scenario.models.memory import kv_bytes

GIB = 2**30


def on_3090(context_tokens: int, reserve_gib: float) -> Request:
    """Return llama-3.1-8b on an RTX 3090, in an engine that profiles a step as long as its context."""
    return make_request(
        "llama-3.1-8b",
        "rtx-3090",
        context_tokens=context_tokens,
        step_tokens=context_tokens,
        reserve_bytes=round(reserve_gib * GIB),
    )


def test_llama_3_1_8b_on_an_rtx_3090_has_the_blocks_that_vllm_reported() -> None:
    """vLLM's issue 10517: 23.58 GiB at 0.90, weights 14.99, activations 2.07 GiB for a step of 20,000 tokens.

    2.89 GiB were left for KV: 1,478 blocks of 16, 23,648 tokens. The rest, 1.27 GiB, is the runtime's.
    """
    assert kv_bytes(on_3090(20_000, 1.27).spec, BLOCK_TOKENS, "bf16") == 2 * 2**20
    runtime_gib = 0.9 * 23.58 - 14.99 - 2.07 - 2.89
    ours = memory_of(on_3090(20_000, runtime_gib))
    assert ours.card_bytes / GIB == pytest.approx(23.58, abs=0.005)
    assert ours.weights_bytes / GIB == pytest.approx(14.99, abs=0.04)
    assert ours.activation_bytes / GIB == pytest.approx(2.07, abs=0.02)
    assert ours.max_kv_tokens == pytest.approx(23_648, rel=0.02)
    counted_gib = (ours.weights_bytes + ours.activation_bytes) / GIB
    as_reported = memory_of(on_3090(20_000, runtime_gib + 14.99 + 2.07 - counted_gib))
    assert as_reported.max_kv_bytes / GIB == pytest.approx(2.89, abs=0.001)
    blocks = as_reported.max_kv_tokens // BLOCK_TOKENS
    assert abs(blocks - 1_478) <= 2  # the log's two digits after the point are 2.5 blocks


def test_a_longer_step_leaves_less_so_that_20k_start_and_29k_do_not() -> None:
    """The same issue: an engine that profiles a step as long as its context starts at 20,000 tokens, not at 29,000."""
    fits = [memory_of(on_3090(tokens, 1.27)).fits for tokens in (20_000, 29_000, 35_000)]
    assert fits == [True, False, False]


@pytest.mark.parametrize(
    ("model", "tokens", "size_bytes"),
    [
        ("llama-2-7b", 4_096, 2 * 2**30),  # LMCache's issue 977: 64 MiB a layer of 32 at 4,096 tokens, 32 KV heads
        ("llama-3.1-8b", 4_096, 2**29),  # the same with 8 KV heads: a quarter
        ("llama-3.1-8b", 131_072, 16 * 2**30),  # TensorRT-LLM's issue 7281: 128 KiB a token
    ],
)
def test_the_cache_of_a_context_has_the_bytes_that_were_asked_about(model: str, tokens: int, size_bytes: int) -> None:
    memory = memory_of(make_request(model, "h100", context_tokens=tokens))
    assert memory.kv_bytes == size_bytes


def test_the_largest_context_and_batch_are_the_last_that_fit() -> None:
    for batch in (1, 4):
        memory = memory_of(make_request("qwen3-8b", "rtx-4090", context_tokens=8_192, batch=batch))
        assert memory.max_context_tokens % BLOCK_TOKENS == 0
        for tokens, fits in ((memory.max_context_tokens, True), (memory.max_context_tokens + BLOCK_TOKENS, False)):
            assert memory_of(make_request("qwen3-8b", "rtx-4090", context_tokens=tokens, batch=batch)).fits is fits
        for sequences, fits in ((memory.max_batch, True), (memory.max_batch + 1, False)):
            assert memory_of(make_request("qwen3-8b", "rtx-4090", context_tokens=8_192, batch=sequences)).fits is fits


def test_formats_with_fewer_bits_take_fewer_bytes() -> None:
    request = make_request("qwen3-8b", "rtx-4090", context_tokens=65_536)
    own, fewer = memory_of(request), memory_of(request, "int4", "fp8")
    assert fewer.kv_bytes * 2 == own.kv_bytes
    assert fewer.weights_bytes < 0.4 * own.weights_bytes
