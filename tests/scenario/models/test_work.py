"""Operations of a token, weights read by a step, activations: closed forms and a real engine's own figure."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kvsim.scenario.models.config import from_config
from kvsim.scenario.models.known import known_model, known_models
from kvsim.scenario.models.memory import activation_bytes, weight_bytes
from kvsim.scenario.models.spec import ModelSpec
from kvsim.scenario.models.work import attention_flop, expected_experts, step_weight_bytes, weights_flop
from tests.scenario.models.tiny_configs import TINY


def test_activations_are_those_that_vllm_measured() -> None:
    """vLLM's issue 10517: 2.07 GiB for Llama-3.1-8B and a step of 20,000 tokens."""
    assert activation_bytes(known_model("llama-3.1-8b"), 20_000, 0) == pytest.approx(2.07 * 2**30, rel=0.006)
    assert activation_bytes(known_model("llama-3.1-8b"), 1, 0) == 2 * (3 * 14_336 + 3 * 4096)


def test_logits_are_one_row_for_each_sequence() -> None:
    """64 rows of 128,256 numbers of 4 bytes: 31.3 MiB."""
    spec = known_model("llama-3-8b")
    assert activation_bytes(spec, 512, 64) - activation_bytes(spec, 512, 0) == 64 * 128_256 * 4


def test_experts_are_as_wide_as_those_that_a_token_visits() -> None:
    """Qwen3 30B: 8 experts of 768 against queries of 4,096 and keys of 512."""
    numbers = activation_bytes(known_model("qwen3-30b-a3b"), 1, 0) / 2 - 3 * 2048
    assert numbers == 3 * 8 * 768


def test_shared_experts_and_gates_of_attention_are_alive_too() -> None:
    """Qwen3-Next: 10 experts of 512 and one shared; its delta nets are wider: 8,192 channels and twice 4,096."""
    spec = known_model("qwen3-next-80b-a3b")
    live = {type(block).__name__ + block_kind(block): block.live_numbers for block in blocks_of(spec)}
    assert live["Experts"] == 3 * 11 * 512
    assert live["Attentionfull"] == 3 * 16 * 256 + 2 * 2 * 256
    assert live["Statestate"] == 8192 + 2 * 4096
    assert activation_bytes(spec, 1, 0) == 2 * (3 * 11 * 512 + 3 * 2048)


def test_latents_are_alive_expanded() -> None:
    """DeepSeek-V3: 128 heads of 192 for queries and keys and of 128 for values and outputs, and both latents."""
    live = max(block.live_numbers for block in blocks_of(known_model("deepseek-v3")))
    assert live == 128 * (2 * 192 + 2 * 128) + 1536 + 512


def blocks_of(spec: ModelSpec) -> list[Any]:
    return [block for layer in spec.layer_counts() for block in (*layer.mixers, *layer.mlps)]


def block_kind(block: Any) -> str:
    return getattr(block, "kind", "")


def test_a_plain_mlp_has_two_tensors() -> None:
    assert activation_bytes(known_model("gpt2"), 1, 0) == 2 * (2 * 3072 + 3 * 768)


def test_a_dense_model_takes_two_operations_for_each_number_of_its_matrices() -> None:
    spec = known_model("llama-3.1-8b")
    matrices = spec.num_parameters - 128_256 * 4096 - (2 * 32 + 1) * 4096
    assert weights_flop(spec) == 2 * matrices
    assert weights_flop(spec) - weights_flop(spec, with_head=False) == 2 * 128_256 * 4096
    assert attention_flop(spec, 1000) == 32 * 2 * 2 * 32 * 128 * 1000


def test_a_tied_head_is_multiplied_with_all_the_same() -> None:
    spec = known_model("smollm2-135m")
    assert weights_flop(spec) - weights_flop(spec, with_head=False) == 2 * 49_152 * 576


def test_only_chosen_experts_are_multiplied_with() -> None:
    spec = known_model("qwen3-30b-a3b")
    tables_and_norms = 2 * 151_936 * 2048 + (2 * 48 + 1) * 2048 + 48 * 2 * 128
    assert weights_flop(spec, with_head=False) == 2 * (spec.num_active_parameters - tables_and_norms)


def test_windows_and_choices_bound_the_operations_of_attention() -> None:
    gemma = known_model("gemma-2-9b")
    key = 2 * 16 * 512
    assert attention_flop(gemma, 8192) == key * 21 * (4096 + 8192)
    latent = known_model("deepseek-v3")
    assert attention_flop(latent, 100) == 61 * 2 * 128 * (512 + 64 + 512) * 100
    chosen = known_model("deepseek-v3.2")
    indexer = 61 * 2 * 64 * 128
    assert attention_flop(chosen, 100_000) - attention_flop(chosen, 50_000) == indexer * 50_000
    assert attention_flop(chosen, 2048) == attention_flop(known_model("deepseek-v3"), 2048) + indexer * 2048


def test_states_take_the_same_at_every_context() -> None:
    spec = from_config({**TINY["mamba2"]})
    assert attention_flop(spec, 1) == attention_flop(spec, 10**6) == 4 * 5 * 8 * 16 * 12


def test_expected_experts_are_those_of_even_random_choices() -> None:
    rng = random.Random(5)
    runs = [len({e for _ in range(9) for e in rng.sample(range(32), 4)}) for _ in range(4000)]
    mean = sum(runs) / len(runs)
    deviation = (sum((run - mean) ** 2 for run in runs) / len(runs)) ** 0.5
    assert abs(mean - expected_experts(32, 4, 9)) < 4 * deviation / len(runs) ** 0.5
    assert deviation / len(runs) ** 0.5 < 0.05  # or the line above proves nothing


def test_a_step_reads_of_a_dense_model_all_but_the_rows_of_other_tokens() -> None:
    spec = known_model("llama-3.1-8b")
    assert step_weight_bytes(spec, 8) == weight_bytes(spec) - 2 * 4096 * (128_256 - 8)
    assert step_weight_bytes(known_model("smollm2-135m"), 1) == weight_bytes(known_model("smollm2-135m"))


def test_one_token_reads_the_active_parameters() -> None:
    spec = known_model("qwen3-30b-a3b")
    table = 151_936 * 2048
    assert step_weight_bytes(spec, 1) == 2 * (spec.num_active_parameters - table + 2048)


def test_packed_experts_are_read_packed() -> None:
    spec = known_model("gpt-oss-20b")
    idle = 28 / 32 * 24 * (32 * 3 * 2880 * 2880 * 17 / 32 + 32 * 3 * 2880 * 2)
    assert step_weight_bytes(spec, 1) == pytest.approx(weight_bytes(spec) - idle - 2 * 2880 * 201_087, rel=1e-9)


@pytest.mark.parametrize("name", known_models())
def test_a_larger_step_reads_more_and_never_more_than_there_is(name: str) -> None:
    spec = known_model(name)
    reads = [step_weight_bytes(spec, tokens, "bf16") for tokens in (1, 2, 16, 256, 10**6)]
    assert reads == sorted(reads)
    assert reads[-1] <= weight_bytes(spec, "bf16")
