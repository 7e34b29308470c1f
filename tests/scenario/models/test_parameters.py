"""Parameters of the models that ship, held to what their makers published."""

from __future__ import annotations

import pytest

from kvsim.scenario.models.families.table import FAMILIES
from kvsim.scenario.models.known import known_model, known_models

PUBLISHED = {
    "command-r-35b": (35e9, "card of CohereLabs/c4ai-command-r-v01: 35 billion parameters"),
    "deepseek-r1": (671e9, "card of deepseek-ai/DeepSeek-R1: 671B"),
    "deepseek-v2-lite": (15.7e9, "arXiv 2405.04434, appendix B: 15.7B"),
    "deepseek-v3": (671e9, "arXiv 2412.19437: 671B"),
    "gemma-2-27b": (1.180e9 + 26.047e9, "arXiv 2408.00118, table 2: embedding and other parameters"),
    "gemma-2-2b": (0.590e9 + 2.024e9, "arXiv 2408.00118, table 2"),
    "gemma-2-9b": (0.918e9 + 8.324e9, "arXiv 2408.00118, table 2"),
    "gemma-3-12b": (1.012e9 + 10.759e9, "arXiv 2503.19786, table 1: embedding and other parameters, without vision"),
    "gemma-3-1b": (0.302e9 + 0.698e9, "arXiv 2503.19786, table 1"),
    "gemma-3-27b": (1.416e9 + 25.600e9, "arXiv 2503.19786, table 1"),
    "gemma-3-4b": (0.675e9 + 3.209e9, "arXiv 2503.19786, table 1"),
    "gemma-4-26b-a4b": (25.2e9, "card of google/gemma-4-26B-A4B: 25.2B"),
    "gemma-4-31b": (30.7e9, "card of google/gemma-4-31B: 30.7B"),
    "glm-5": (744e9, "card of zai-org/GLM-5: 744B"),
    "gpt-j-6b": (6_053_381_344, "card of EleutherAI/gpt-j-6b"),
    "gpt-oss-120b": (116.83e9, "arXiv 2508.10925, table 1"),
    "gpt-oss-20b": (20.91e9, "arXiv 2508.10925, table 1"),
    "gpt2": (124e6, "card of openai-community/gpt2: 124M"),
    "gpt2-medium": (355e6, "card of openai-community/gpt2-medium: 355M"),
    "lfm2-1.2b": (1_170_340_608, "card of LiquidAI/LFM2-1.2B"),
    "llama-2-7b": (6.74e9, "weights of meta-llama/Llama-2-7b-hf: 6.74B"),
    "llama-3.1-405b": (405e9, "arXiv 2407.21783: 405B"),
    "llama-3.1-70b": (70.6e9, "weights of meta-llama/Llama-3.1-70B: 70.6B"),
    "llama-3.1-8b": (8.03e9, "weights of meta-llama/Llama-3.1-8B: 8.03B"),
    "llama-3.2-1b": (1.23e9, "card of meta-llama/Llama-3.2-1B: 1.23B"),
    "llama-3.2-3b": (3.21e9, "card of meta-llama/Llama-3.2-3B: 3.21B"),
    "llama-3.3-70b": (70.55e9, "weights of meta-llama/Llama-3.3-70B-Instruct: 141.1 GB in bf16 (oss.report)"),
    "llama-4-maverick": (400e9, "card of meta-llama/Llama-4-Maverick-17B-128E-Instruct: 400B"),
    "mixtral-8x22b": (141e9, "mistral.ai, 'Cheaper, better, faster, stronger': 141B"),
    "mixtral-8x7b": (46.7e9, "mistral.ai, 'Mixtral of experts': 46.7B"),
    "nemotron-3-nano-30b-a3b": (31.6e9, "card of nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16: 31.6B"),
    "nemotron-3-ultra-550b-a55b": (550e9, "its name: 550B"),
    "phi-3.5-moe": (42e9, "card of microsoft/Phi-3.5-MoE-instruct: 42B"),
    "qwen2.5-1.5b": (1.54e9, "card of Qwen/Qwen2.5-1.5B: 1.54B"),
    "qwen2.5-14b": (14.7e9, "card of Qwen/Qwen2.5-14B: 14.7B"),
    "qwen2.5-3b": (3.09e9, "card of Qwen/Qwen2.5-3B: 3.09B"),
    "qwen2.5-72b": (72.7e9, "card of Qwen/Qwen2.5-72B: 72.7B"),
    "qwen2.5-7b": (7.61e9, "card of Qwen/Qwen2.5-7B: 7.61B"),
    "qwen3-14b": (14.8e9, "card of Qwen/Qwen3-14B: 14.8B"),
    "qwen3-235b-a22b": (235e9, "card of Qwen/Qwen3-235B-A22B: 235B"),
    "qwen3-30b-a3b": (30.5e9, "card of Qwen/Qwen3-30B-A3B: 30.5B"),
    "qwen3-32b": (32.8e9, "card of Qwen/Qwen3-32B: 32.8B"),
    "qwen3-8b": (8.2e9, "card of Qwen/Qwen3-8B: 8.2B"),
    "qwen3-coder-480b-a35b": (480e9, "card of Qwen/Qwen3-Coder-480B-A35B-Instruct: 480B"),
    "qwen3-next-80b-a3b": (80e9, "card of Qwen/Qwen3-Next-80B-A3B-Instruct: 80B"),
    "smollm2-135m": (135e6, "card of HuggingFaceTB/SmolLM2-135M: 135M"),
    "yi-34b": (34.4e9, "weights of 01-ai/Yi-34B: 34.4B"),
}
"""Parameters in all, and where they are stated. (The card of Qwen2.5-32B says 32.5B, 0.8% below its own sizes.)"""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    stated, _source = PUBLISHED[name]
    assert known_model(name).num_parameters == pytest.approx(stated, rel=0.005)


def test_enough_models_are_held_to_their_published_sizes() -> None:
    assert len(PUBLISHED) >= 25


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("deepseek-v3", 37e9),  # arXiv 2412.19437
        ("gemma-4-26b-a4b", 3.8e9),  # its card
        ("mixtral-8x22b", 39e9),  # mistral.ai
        ("mixtral-8x7b", 12.9e9),  # mistral.ai
        ("nemotron-3-nano-30b-a3b", 3.6e9),  # its card, embeddings included
        ("phi-3.5-moe", 6.6e9),  # its card
        ("qwen3-235b-a22b", 22e9),  # its card
        ("qwen3-coder-480b-a35b", 35e9),  # its card
    ],
)
def test_active_parameters_are_the_published_ones(name: str, stated: float) -> None:
    assert known_model(name).num_active_parameters == pytest.approx(stated, rel=0.015)


@pytest.mark.parametrize(
    ("name", "experts", "attention", "tables", "active"),
    [("gpt-oss-120b", 114.71e9, 0.96e9, 1.16e9, 5.13e9), ("gpt-oss-20b", 19.12e9, 0.64e9, 1.16e9, 3.61e9)],
)
def test_parts_of_gpt_oss_are_those_of_its_paper(
    name: str, experts: float, attention: float, tables: float, active: float
) -> None:
    """arXiv 2508.10925, table 1; it counts the embedding table as inactive, and the head as active."""
    spec = known_model(name)
    parts = spec.parameters_by_part()
    assert parts["experts"] + parts["router"] == pytest.approx(experts, abs=0.006e9)
    assert parts["attention"] == pytest.approx(attention, abs=0.006e9)
    assert parts["embeddings"] + parts["head"] == pytest.approx(tables, abs=0.006e9)
    assert spec.num_active_parameters - parts["embeddings"] == pytest.approx(active, abs=0.006e9)


def test_parameters_of_exaone_without_embeddings_are_those_of_its_card() -> None:
    parts = known_model("exaone-4.0-32b").parameters_by_part()
    without = known_model("exaone-4.0-32b").num_parameters - parts["embeddings"] - parts["head"]
    assert without == pytest.approx(30.95e9, rel=0.0005)


@pytest.mark.parametrize("name", known_models())
def test_parts_add_up_and_no_more_is_active_than_there_is(name: str) -> None:
    spec = known_model(name)
    assert sum(spec.parameters_by_part().values()) == spec.num_parameters
    assert 0 < spec.num_active_parameters <= spec.num_parameters
    assert (spec.num_active_parameters < spec.num_parameters) == (spec.mixture is not None)


@pytest.mark.parametrize("name", known_models())
def test_every_entry_says_where_it_is_from_and_has_no_key_that_nobody_reads(name: str) -> None:
    model = known_models()[name]
    assert model.hub.count("/") == 1
    assert model.source
    assert model.date.startswith("202")
    assert known_model(name).unread == ()
    assert known_model(model.hub) is not None


def test_enough_models_and_families_ship() -> None:
    assert len(known_models()) >= 40
    assert len({known_model(name).model_type for name in known_models()}) >= 25
    assert {known_model(name).model_type for name in known_models()} <= set(FAMILIES)


def test_biases_of_qwen2_are_counted() -> None:
    """28 layers, (28 + 4 + 4) heads of 128."""
    spec = known_model("qwen2.5-7b")
    assert spec.num_parameters == 7_615_616_512
    without = sum(t.numbers * n for t, n in spec.tensors() if t.part != "attention" or t.is_linear)
    assert spec.num_parameters - without == 28 * 36 * 128
